"""Every fault strikes the real processes once or more, and no answer is hurt; the tiny target answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.kinds import FAULTS
from tests.pruned_pair import pruned_pair

# Servers start some eight times. `pipesd bench faults` does the same with other counts and targets.
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]

COUNTS = {"cut": 5, "cut-often": 3, "cut-frame": 5, "server-stop": 3, "edge-kill": 3}
"""How often each strikes; the others once."""


@pytest.mark.parametrize("num_servers", [1, 2])
def test_faults_hurt_no_answer(tmp_path: Path, num_servers: int) -> None:
    """Nothing differs, is lost, doubled or untyped, and servers hold nothing afterwards."""
    names = [name for name, fault in FAULTS.items() if fault.num_servers == num_servers]
    pair, report = pruned_pair(), tmp_path / "faults.json"
    asked = [part for name in names for part in ("--fault", f"{name}={COUNTS.get(name, 1)}")]
    command = [sys.executable, "-m", "openai_gateway.cli.main", "bench", "faults", *asked]
    command += ["--target", str(pair.target), "--draft", str(pair.draft), "--json", str(report)]
    done = subprocess.run([*command, "--", "--enforce-eager"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(report.read_text())["rows"]
    assert [row["fault"] for row in rows] == names
    hit = {row["fault"]: row["under_way"] for row in rows}
    assert all(hit.values()), f"some faults met no answer: {hit}"
