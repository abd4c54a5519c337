"""Trace files read back, a session at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.tracing.events import SessionEnded, TraceEvent, decode_event

__all__ = ["TraceReader"]

_MAX_LINE_BYTES: Final = 1 << 20
"""Longer ones are read, and counted as corrupt, in pieces."""


class TraceReader:
    """Reads a file of `FileRecorder`. Lines that are no events are skipped and counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.num_corrupt = 0

    def sessions(self) -> Iterator[list[TraceEvent]]:
        """Each session's events in the file's order; sessions come as they end. Raises `OSError`.

        What follows a session's end under the same number is taken for another session.
        """
        running: dict[int, list[TraceEvent]] = {}
        for event in self._events():
            running.setdefault(event.session, []).append(event)
            if isinstance(event, SessionEnded):
                yield running.pop(event.session)
        yield from running.values()

    def _events(self) -> Iterator[TraceEvent]:
        with self._path.open("rb") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                try:
                    yield decode_event(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self.num_corrupt += 1
