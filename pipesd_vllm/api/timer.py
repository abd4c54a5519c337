"""A timer that is put off with every frame and hardly ever runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["PatientTimer", "TimerLoop"]


class TimerLoop(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any:
        """Returns a handle with `cancel()`."""


class PatientTimer:
    """Calls `action` once when `delay_s` have gone by since the last `restart`.

    A restart only notes the time: the event loop's own timer is set once and, when it runs out early, set
    again for what is left. Cancelling and setting it anew with every frame would cost more than the frame.
    """

    def __init__(self, loop: TimerLoop, delay_s: float, action: Callable[[], None]) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._action = action
        self._due_s = 0.0
        self._handle: Any | None = None

    def restart(self) -> None:
        """Wait the whole delay from now on, whether the timer was running, stopped or done."""
        self._due_s = self._loop.time() + self._delay_s
        if self._handle is None:
            self._handle = self._loop.call_at(self._due_s, self._check)

    def stop(self) -> None:
        """Nothing happens any more until the next `restart`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _check(self) -> None:
        self._handle = None
        if self._loop.time() < self._due_s:
            self._handle = self._loop.call_at(self._due_s, self._check)
        else:
            self._action()
