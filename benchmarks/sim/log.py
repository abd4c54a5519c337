"""The event log of a run: what happened when, and a hash over it that two equal runs share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["Event", "EventLog"]

_DIGEST_BYTES: Final = 16


class Event(NamedTuple):
    """`what` are strings, numbers and tuples of them: nothing whose `repr` depends on the process."""

    at_s: float
    what: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.at_s:.9f} {' '.join(map(str, self.what))}"


class EventLog:
    """Takes events in order. Keeps them only with `keep`; the hash is over all, to the nanosecond."""

    def __init__(self, clock: Callable[[], float], *, keep: bool = False) -> None:
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._keep = keep
        self.events: list[Event] = []
        self.num_events = 0

    def __call__(self, *what: object) -> None:
        """Note that `what` happened now."""
        now_s = self._clock()
        self.num_events += 1
        self._hash.update(f"{now_s:.9f} {what!r}\n".encode())
        if self._keep:
            self.events.append(Event(now_s, what))

    def digest(self) -> str:
        """The hash so far, in hexadecimal."""
        return self._hash.hexdigest()
