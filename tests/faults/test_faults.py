"""Every fault strikes the real processes once or more, and no answer is hurt; the tiny target answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.kinds import FAULTS
from tests.pruned_pair import pruned_pair

# Servers start some eight times. `pipesd bench faults` does the same with other counts and targets.
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]

COUNTS = {"cut": 5, "cut-often": 3, "cut-frame": 5, "server-stop": 3, "edge-kill": 3}
"""How often each strikes; the others once."""
FEW_BLOCKS = ("--num-gpu-blocks-override", "14")
"""Room for some seven of the answers at a time."""


def rows(folder: Path, counts: Mapping[str, int], chats: int = 6, vllm: Sequence[str] = ()) -> list[Any]:
    """What the command tells of each fault. It found nothing: nothing differing, lost, doubled or untyped,
    and servers that hold nothing afterwards.
    """
    pair, report = pruned_pair(), folder / "faults.json"
    command = [sys.executable, "-m", "openai_gateway.cli.main", "bench", "faults", "--chats", str(chats)]
    command += [part for name, count in counts.items() for part in ("--fault", f"{name}={count}")]
    command += ["--target", str(pair.target), "--draft", str(pair.draft), "--json", str(report)]
    command += ["--", "--enforce-eager", *vllm]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[Any] = json.loads(report.read_text())["rows"]
    assert [row["fault"] for row in found] == [*counts]
    return found


@pytest.mark.parametrize("num_servers", [1, 2])
def test_faults_hurt_no_answer(tmp_path: Path, num_servers: int) -> None:
    """Whatever strikes, and it strikes answers that are under way."""
    names = [name for name, fault in FAULTS.items() if fault.num_servers == num_servers]
    hit = {row["fault"]: row["under_way"] for row in rows(tmp_path, {n: COUNTS.get(n, 1) for n in names})}
    assert all(hit.values()), f"some faults met no answer: {hit}"


def test_a_cache_that_is_too_small(tmp_path: Path) -> None:
    """Sixteen sessions share blocks for seven, are suspended and preempted, and lose their lines as well."""
    assert rows(tmp_path, {"none": 2, "cut": 1}, chats=16, vllm=FEW_BLOCKS)
