"""The GPU kit as far as it goes without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.gpu import commands
from benchmarks.gpu.noise import agreement, ulps
from edge_agent.testing import FakeTransport, fake_welcome
from pipesd_vllm.launch.cpu_host import is_cpu_build
from pipesd_vllm.wire import Draft, Open, fingerprint

LOG = """\
(APIServer pid=1) INFO **CUDAGraph Stats:**

| Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | Count |
|-----------------|---------------|--------------|--------------|-------|
| 4               | 4             | 0            | FULL         | 90    |
| 33              | 40            | 7            | PIECEWISE    | 2     |
"""

INTERPRETED = """
from pipesd_vllm.launch.boot import boot
boot()
import json
from benchmarks.gpu.noise import noise_agreement
found = [noise_agreement(-5, 3, 1500, fp64=fp64, device="cpu") for fp64 in (False, True)]
print(json.dumps([each._asdict() for each in found]))
"""


def test_ulps_count_the_numbers_between() -> None:
    """Across zero, too, and in both widths."""
    for kind in (np.float32, np.float64):
        ones = np.array([1.0, -1.0, 0.0, 2.0], dtype=kind)
        next_one = (
            np.nextafter(np.float64(0), np.float64(1))
            if kind is np.float64
            else np.nextafter(np.float32(0), np.float32(1))
        )
        others = np.array([np.nextafter(kind(1), kind(2)), -1.0, -next_one, 2.0], dtype=kind)
        assert ulps(ones, others).tolist() == [1, 0, 1, 0]


def test_agreement_tells_other_winners() -> None:
    """The same noise agrees in all; noise of another seed does not."""
    rng = np.random.default_rng(1)
    noise = rng.gumbel(size=(20, 500)).astype(np.float32)
    assert agreement(noise, noise) == (0, 1.0, 0, 20)
    found = agreement(noise, rng.gumbel(size=(20, 500)).astype(np.float32))
    assert found.flips > 0
    assert found.share_equal < 0.01


@pytest.mark.skipif(not is_cpu_build(), reason="vLLM's CPU build alone interprets Triton")
def test_the_noise_kernel_interpreted() -> None:
    """The kernel compiles from vLLM's functions, and gives what ours gives up to the last place or two."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    for found in json.loads(ran.stdout.splitlines()[-1]):
        assert found["max_ulp"] <= 4
        assert found["flips"] == 0
        assert found["num_rows"] == 3


async def test_graphs_are_counted_from_the_log(tmp_path: Path) -> None:
    """What was written before the work does not count."""
    log = tmp_path / "server.log"
    log.write_text(LOG, encoding="utf-8")

    async def work() -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(LOG * 2)

    async def no_sleep(_: float) -> None:
        pass

    counts = await commands.graph_counts(log, work, no_sleep)
    assert counts == Counter({(4, 4, "FULL"): 180, (33, 40, "PIECEWISE"): 4})
    first, second = commands.graph_lines("plain steps", counts)
    assert first == "plain steps by graph: FULL 180, PIECEWISE 4"
    assert "180 x 4 tokens as 4, FULL" in second
    assert "no counts" in commands.graph_lines("plain steps", Counter())[0]


async def test_ragged_rounds_draft_after_each_commit() -> None:
    """Every frame hangs from the last committed token, and there are as many as fit the context."""
    welcome = fake_welcome(fingerprint(["a"] * 1000), max_model_len=32 + 2 + 3 * 3)
    wire = FakeTransport(lambda tokens: 7, welcome)  # agrees with no draft
    await commands.ragged_rounds(wire, 2, 100)
    opening, *frames = wire.sent
    assert isinstance(opening, Open)
    drafts = [frame for frame in frames if isinstance(frame, Draft)]
    assert len(drafts) == len(frames)
    assert [(frame.first, frame.base, len(frame.tokens)) for frame in drafts] == [
        (1, 33, 2),
        (3, 34, 2),
        (5, 35, 2),
    ]


async def test_near_ties_are_counted() -> None:
    """By the gap between the two likeliest tokens of each position."""

    class Server:
        async def complete(self, prompt: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            assert body["logprobs"] == 2
            tops = [{"a": -0.1, "b": -0.1003}, {"a": -1.0, "b": -1.2}, {"a": 0.0, "b": -9.0}, {"a": 0.0}]
            return "id", {"logprobs": {"top_logprobs": tops}}

    shares, number = await commands.near_ties(Server(), ["x", "y"], 4)  # type: ignore[arg-type]
    assert number == 6
    assert [shares[gap] for gap in (1e-4, 5e-4, 0.25)] == pytest.approx([0.0, 1 / 3, 2 / 3])


def test_without_a_device_it_says_so() -> None:
    """One sentence instead of a traceback; so for a part that there is not."""
    for arguments in (["--parts", "noise"], ["--parts", "noises"]):
        result = CliRunner().invoke(app, ["gpu", *arguments])
        assert result.exit_code != 0
        assert result.exception is not None
        assert "Traceback" not in result.output
