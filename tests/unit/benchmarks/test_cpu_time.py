"""CPU time from /proc."""

import os
from pathlib import Path

import pytest

from benchmarks.harness.processes import parse_stat, session_cpu_s

REST = "S 1 {session} {session} 0 -1 0 0 0 0 0 {ticks} 2 3 4 20 0"


def stat(pid: int, session: int, ticks: int, name: str = "VLLM::Worker (0)") -> str:
    return f"{pid} ({name}) {REST.format(session=session, ticks=ticks)}"


def test_parse_stat() -> None:
    """Names with blanks and parentheses do not shift the fields; ended children count."""
    assert parse_stat(stat(7, 5, 100)) == (5, 100 + 2 + 3 + 4)


def test_all_processes_of_the_session_count(tmp_path: Path) -> None:
    """Others do not."""
    (tmp_path / "self").mkdir()
    for pid, session in ((5, 5), (7, 5), (8, 8)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat(pid, session, 91))
    assert session_cpu_s(5, tmp_path) == pytest.approx(2 * 100 / os.sysconf("SC_CLK_TCK"))


def test_systems_without_proc(tmp_path: Path) -> None:
    """Nothing is known there."""
    assert session_cpu_s(5, tmp_path) is None
