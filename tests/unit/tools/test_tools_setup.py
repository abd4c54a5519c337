"""`tools/setup.py`: every obstacle is one sentence, and nothing is done twice."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture(scope="module")
def tools() -> Iterator[None]:
    """The scripts' folder where Python looks for modules first, as when one of them runs."""
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def setup(tools: None) -> ModuleType:
    return importlib.import_module("setup")


@pytest.fixture(scope="module")
def checks(tools: None) -> ModuleType:
    return importlib.import_module("setup_checks")


@pytest.fixture(scope="module")
def steps(tools: None) -> ModuleType:
    return importlib.import_module("setup_steps")


def tool(folder: Path, name: str) -> None:
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)


def test_needs_the_standard_library_only() -> None:
    """The script loads in a Python without any installed package."""
    code = f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import setup"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 2)])
def test_supported_pythons(checks: ModuleType, version: tuple[int, ...]) -> None:
    """The oldest and the newest supported Python pass."""
    checks.check_python(version)


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0)])
def test_unsupported_python(checks: ModuleType, version: tuple[int, ...]) -> None:
    """Another Python is named with the range and the way to choose one."""
    found = f"{version[0]}.{version[1]}"
    with pytest.raises(
        checks.SetupError, match=rf"^Python 3.11 to 3.14 is needed, this is {found}: .*PYTHON="
    ):
        checks.check_python(version)


def test_missing_compiler(checks: ModuleType, tmp_path: Path) -> None:
    """Without a C++ compiler: what needs it and how to install it."""
    tool(tmp_path, "git")
    with pytest.raises(checks.SetupError, match=r"^No C\+\+ compiler found .*apt install g\+\+"):
        checks.check_tools(str(tmp_path), None)


def test_missing_git(checks: ModuleType, tmp_path: Path) -> None:
    """Without git: how to install it."""
    with pytest.raises(checks.SetupError, match=r"^git is not installed: .*apt install git"):
        checks.check_tools(str(tmp_path), None)


@pytest.mark.parametrize(
    ("installed", "compiler"), [("g++", None), ("clang++", None), ("my-cxx", "my-cxx -O2")]
)
def test_compilers_that_are_found(
    checks: ModuleType, tmp_path: Path, installed: str, compiler: str | None
) -> None:
    """Any usual compiler counts, and what CXX names (with flags) does."""
    tool(tmp_path, "git")
    tool(tmp_path, installed)
    checks.check_tools(str(tmp_path), compiler)


def test_full_disk(checks: ModuleType, tmp_path: Path) -> None:
    """Too little room: how much is needed, where, and how much there is."""
    checks.check_disk(tmp_path, 0)
    with pytest.raises(
        checks.SetupError, match=rf"^1e\+06 GB of free disk are needed at {tmp_path}, [0-9.]+ GB are"
    ):
        checks.check_disk(tmp_path, 1e6)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError ...\nERROR: No matching distribution found for torch==2.13.0", "cannot reach"),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "no CPU build of torch"),
        ("  ERROR: Failed building wheel for llama-cpp-python", "llama.cpp did not compile"),
        ("ERROR: something\nERROR: else", "else; see "),
        ("", "a command failed; see "),
    ],
)
def test_failures_of_pip_are_explained(steps: ModuleType, output: str, advice: str) -> None:
    """The causes that a newcomer meets get advice, the others pip's own last error and the log."""
    assert advice in steps.explain_failure(output, Path("setup.log"))


def test_steps_are_logged(steps: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step prints its title and time; what it says is in the log, also when it fails."""
    log_file = tmp_path / "setup.log"
    steps.run_step("Counting", ["sh", "-c", "echo one"], log_file)
    with pytest.raises(steps.SetupError, match=rf"^Failing failed: two; see {log_file}\.$"):
        steps.run_step("Failing", ["sh", "-c", "echo ERROR: two; exit 3"], log_file)
    assert "Counting: done, 0:00" in capsys.readouterr().out
    assert log_file.read_text().splitlines() == [
        "$ sh -c echo one",
        "one",
        "",
        "$ sh -c echo ERROR: two; exit 3",
        "ERROR: two",
        "",
    ]


def test_stamp_tells_what_has_to_be_done(setup: ModuleType, tmp_path: Path) -> None:
    """The first line changes with the requirements alone, the second with anything in the file."""
    file = tmp_path / "pyproject.toml"

    def stamp(text: str) -> list[str]:
        file.write_text(f"[project]\n{text}")
        return setup.stamp_of(file).splitlines()

    first, second = stamp('dependencies = ["a"]')
    assert stamp('dependencies = ["a"]') == [first, second]
    assert stamp('dependencies = ["a"]\nname = "b"')[0] == first
    assert stamp('dependencies = ["a"]\nname = "b"')[1] != second
    assert stamp('dependencies = ["a", "b"]')[0] != first
