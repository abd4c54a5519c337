"""The page's modules under node's own test runner, one test for each file of tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))
OLDEST = 20
TIMEOUT_S = 300


def node() -> str:
    """Path of a node that has what the tests use; skips without one."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("no node on this machine: install Node.js 20 or later")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"node is {version}, and these tests need {OLDEST} or later")
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_modules(file: Path) -> None:
    """Each module does what its tests say, without a browser."""
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap", str(file)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), done.stdout
