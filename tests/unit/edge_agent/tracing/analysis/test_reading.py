"""Trace files read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.tracing import Opened, SessionEnded, TraceEvent, encode_event
from edge_agent.tracing.analysis.reading import TraceReader


def write(path: Path, *lines: TraceEvent | bytes) -> TraceReader:
    path.write_bytes(b"".join(line if isinstance(line, bytes) else encode_event(line) for line in lines))
    return TraceReader(path)


def test_interleaved_sessions_are_told_apart(tmp_path: Path) -> None:
    """Sessions come as they end, each with its own events in order; one without an end comes last."""
    events = [Opened(session, t, 0) for t, session in enumerate([1, 2, 3, 2, 1])]
    ends = [SessionEnded(2, 9.0, "stop"), SessionEnded(1, 9.0, "stop")]
    reader = write(tmp_path / "trace", *events, *ends)
    assert [[event.session for event in events] for events in reader.sessions()] == [[2] * 3, [1] * 3, [3]]


def test_a_number_used_again_is_another_session(tmp_path: Path) -> None:
    """After its end a number may come back: two traces in one file."""
    reader = write(tmp_path / "trace", SessionEnded(1, 1.0, "stop"), SessionEnded(1, 2.0, "stop"))
    assert len(list(reader.sessions())) == 2


def test_lines_that_are_no_events_are_counted(tmp_path: Path) -> None:
    """Junk, foreign JSON, broken text and a line that was cut short cost only themselves."""
    whole, cut = encode_event(Opened(1, 1.0, 0)), encode_event(Opened(1, 1.0, 0))[:-9]
    reader = write(tmp_path / "trace", b"junk\n", whole, b"{}\n", b"\xff\xfe\n", b"\n", whole, cut)
    assert [len(events) for events in reader.sessions()] == [2]
    assert reader.num_corrupt == 5


def test_a_missing_file_raises(tmp_path: Path) -> None:
    """What the system says is passed on."""
    with pytest.raises(FileNotFoundError):
        list(TraceReader(tmp_path / "missing").sessions())
