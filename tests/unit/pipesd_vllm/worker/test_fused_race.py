"""The kernel for GPUs: on one where there is one, in Triton's interpreter elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("fused_race_cases.py")
ROOT = Path(__file__).resolve().parents[4]


def test_the_kernel() -> None:
    """In a process of its own: Triton decides when it is imported whether it compiles or interprets."""
    pytest.importorskip("triton")
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
