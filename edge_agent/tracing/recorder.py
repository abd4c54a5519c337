"""Where trace events go. Recording never disturbs a generation: what fails is said once and left."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from edge_agent.tracing.events import SessionEnded, TraceEvent, encode_event

__all__ = ["FileRecorder", "MemoryRecorder", "NullRecorder", "TraceRecorder"]

logger = logging.getLogger("pipesd.trace")

_BUFFER_BYTES: Final = 1 << 16
_MAX_BYTES: Final = 1 << 30


class TraceRecorder(Protocol):
    """Takes the events of any number of sessions, all from one thread. Raises nothing."""

    @property
    def enabled(self) -> bool:
        """Whether events are wanted at all: ask before building one."""
        ...

    def next_session(self) -> int:
        """A number for the events of a session that is about to start."""
        ...

    def record(self, event: TraceEvent) -> None:
        """Keep `event`, or drop it if not `enabled`."""
        ...

    def close(self) -> None:
        """Write what is buffered; nothing is recorded any more. Idempotent."""
        ...


class NullRecorder:
    """Records nothing."""

    @property
    def enabled(self) -> bool:
        return False

    def next_session(self) -> int:
        return 0

    def record(self, event: TraceEvent) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryRecorder:
    """Keeps the events in `events`, for tests and benchmarks."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []
        self.enabled = True
        self._num_sessions = 0

    def next_session(self) -> int:
        self._num_sessions += 1
        return self._num_sessions

    def record(self, event: TraceEvent) -> None:
        if self.enabled:
            self.events.append(event)

    def close(self) -> None:
        self.enabled = False


def _create_private(path: Path) -> BinaryIO:
    """A trace holds the text of conversations, as token ids: only its owner may read it."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)


class FileRecorder:
    """JSON lines in a file, which replaces one of the same name; on disk when a session ends.

    Stops by itself, saying so once in the log, when the file cannot be written or has grown to
    `max_bytes`.
    """

    def __init__(
        self, path: Path, *, create: Callable[[Path], BinaryIO] = _create_private, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._path = path
        self._buffer = bytearray()
        self._bytes_left = max_bytes
        self._num_sessions = 0
        self._file: BinaryIO | None = None
        try:
            self._file = create(path)
        except OSError as error:
            self._give_up(str(error))

    @property
    def enabled(self) -> bool:
        return self._file is not None

    def next_session(self) -> int:
        self._num_sessions += 1
        return self._num_sessions

    def record(self, event: TraceEvent) -> None:
        if self._file is None:
            return
        line = encode_event(event)
        if len(line) > self._bytes_left:
            self._flush()
            self._give_up("the file has grown to its limit")
            return
        self._bytes_left -= len(line)
        self._buffer += line
        if len(self._buffer) >= _BUFFER_BYTES or isinstance(event, SessionEnded):
            self._flush()

    def close(self) -> None:
        self._flush()
        self._release()

    def _flush(self) -> None:
        while self._file is not None and self._buffer:
            try:
                written = self._file.write(self._buffer)
            except OSError as error:
                self._give_up(str(error))
            else:
                del self._buffer[:written]

    def _give_up(self, reason: str) -> None:
        logger.warning("no more is traced to %s: %s", self._path, reason)
        self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        self._buffer.clear()
        if file is not None:
            try:
                file.close()
            except OSError as error:
                logger.warning("the trace %s may be incomplete: %s", self._path, error)
