"""Recording, and failing to, without disturbing anyone."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from edge_agent.tracing import FileRecorder, MemoryRecorder, NullRecorder, Opened, SessionEnded, decode_event

EVENT = Opened(1, 1.0, 100)
END = SessionEnded(1, 2.0, "stop")


class FullDisk(io.RawIOBase):
    """Takes `num_writes` writes, then fails; closing fails, too."""

    def __init__(self, num_writes: int) -> None:
        self.num_writes = num_writes

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if self.num_writes == 0:
            raise OSError(28, "No space left on device")
        self.num_writes -= 1
        return len(data)  # type: ignore[arg-type]

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(5, "Input/output error")


class ShortWrites(io.RawIOBase):
    """Takes three bytes at a time."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)[:3]  # type: ignore[call-overload]
        self.data += piece
        return len(piece)


def test_a_session_is_on_disk_when_it_ends(tmp_path: Path) -> None:
    """Events are buffered up to the session's end, then the file is complete."""
    path = tmp_path / "trace.jsonl"
    recorder = FileRecorder(path)
    recorder.record(EVENT)
    assert path.read_bytes() == b""
    recorder.record(END)
    assert [decode_event(line) for line in path.read_bytes().splitlines()] == [EVENT, END]
    recorder.close()


def test_closing_writes_what_is_left_and_ends_it(tmp_path: Path) -> None:
    """Closing flushes; afterwards nothing is recorded, and closing again does nothing."""
    path = tmp_path / "trace.jsonl"
    recorder = FileRecorder(path)
    recorder.record(EVENT)
    recorder.close()
    recorder.record(EVENT)
    recorder.close()
    assert not recorder.enabled
    assert len(path.read_bytes().splitlines()) == 1


def test_a_trace_is_private_and_replaces_the_one_before(tmp_path: Path) -> None:
    """Only the owner can read the token ids of conversations; an old trace is not continued."""
    path = tmp_path / "trace.jsonl"
    for _ in range(2):
        recorder = FileRecorder(path)
        recorder.record(EVENT)
        recorder.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes().splitlines()) == 1


def test_a_missing_folder_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be created leaves a recorder that records nothing and a line in the log."""
    with caplog.at_level(logging.WARNING, "pipesd.trace"):
        recorder = FileRecorder(tmp_path / "missing" / "trace.jsonl")
        for event in (EVENT, END):
            recorder.record(event)
        recorder.close()
    assert not recorder.enabled
    assert len(caplog.records) == 1
    assert "No such file or directory" in caplog.text


def test_a_full_disk_ends_the_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails raises nothing: recording stops, and the log says why."""
    recorder = FileRecorder(tmp_path / "trace", create=lambda path: FullDisk(num_writes=1))  # type: ignore[arg-type,return-value]
    recorder.record(END)
    assert recorder.enabled
    with caplog.at_level(logging.WARNING, "pipesd.trace"):
        recorder.record(END)
        recorder.record(END)
        recorder.close()
    assert not recorder.enabled
    assert caplog.text.count("No space left on device") == 1


def test_short_writes_lose_nothing(tmp_path: Path) -> None:
    """A file that takes a few bytes at a time gets all of them."""
    file = ShortWrites()
    recorder = FileRecorder(tmp_path / "trace", create=lambda path: file)  # type: ignore[arg-type,return-value]
    recorder.record(EVENT)
    recorder.record(END)
    assert [decode_event(line) for line in bytes(file.data).splitlines()] == [EVENT, END]


def test_a_trace_does_not_fill_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At its limit the file ends with a whole line and recording stops."""
    path = tmp_path / "trace.jsonl"
    recorder = FileRecorder(path, max_bytes=200)
    with caplog.at_level(logging.WARNING, "pipesd.trace"):
        for _ in range(50):
            recorder.record(EVENT)
    assert not recorder.enabled
    assert len(caplog.records) == 1
    lines = path.read_bytes().splitlines()
    assert 0 < len(path.read_bytes()) <= 200
    assert all(decode_event(line) == EVENT for line in lines)


def test_sessions_are_numbered(tmp_path: Path) -> None:
    """Sessions of one recorder get different numbers."""
    memory, file = MemoryRecorder(), FileRecorder(tmp_path / "trace")
    assert [memory.next_session(), memory.next_session()] == [1, 2]
    assert [file.next_session(), file.next_session()] == [1, 2]
    file.close()


def test_the_null_recorder_wants_nothing() -> None:
    """It says so, and what comes regardless is dropped."""
    recorder = NullRecorder()
    recorder.record(EVENT)
    recorder.close()
    assert not recorder.enabled
    assert recorder.next_session() == 0


def test_the_memory_recorder_keeps_events_until_closed() -> None:
    """Its events can be looked at; after closing none are added."""
    recorder = MemoryRecorder()
    recorder.record(EVENT)
    recorder.close()
    recorder.record(END)
    assert recorder.events == [EVENT]
