"""What `pipesd serve` and `pipesd up` run, and with which flags."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from openai_gateway.cli.local_target import local_target, target_environment, target_flags
from openai_gateway.cli.serve import server_command

PREFIX = [sys.executable, "-m", "pipesd_vllm.launch.serve"]
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


@needs_vllm
@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        ([], ["embedded"]),
        (["--port", "1"], ["embedded", "--port", "1"]),
        (["org/model", "--port", "1", "-tp", "2"], ["org/model", "--port", "1", "-tp", "2"]),
    ],
)
def test_serve_passes_everything_on(arguments: list[str], passed_on: list[str]) -> None:
    """The model defaults to the embedded one; all flags reach vLLM as they are."""
    assert server_command(arguments) == [*PREFIX, *passed_on]


def test_flags_of_a_local_target_can_be_replaced() -> None:
    """A flag that is given replaces ours, in both ways to write it; others are added."""
    assert target_flags() == ["--max-model-len", "2048", "--max-num-seqs", "8"]
    given = ["--max-model-len=512", "--dtype", "float32"]
    assert target_flags(given) == ["--max-num-seqs", "8", *given]


def test_environment_of_a_local_target() -> None:
    """The KV cache is small unless the user said how large."""
    assert target_environment({})["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert target_environment({"VLLM_CPU_KVCACHE_SPACE": "4"})["VLLM_CPU_KVCACHE_SPACE"] == "4"


@needs_vllm
def test_local_target_listens_on_loopback(tmp_path: Path) -> None:
    """Model, address, health check and log file of a local target fit together."""
    server = local_target("org/model", ["--dtype", "float32"], port=4321, log_dir=tmp_path)
    assert server.base_url == "http://127.0.0.1:4321"
    assert server.health_url == "http://127.0.0.1:4321/health"
    assert server.log_path == tmp_path / "target-4321.log"
    assert server.command[:8] == (*PREFIX, "org/model", "--host", "127.0.0.1", "--port", "4321")
    assert server.command[-2:] == ("--dtype", "float32")
