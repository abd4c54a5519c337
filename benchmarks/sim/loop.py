"""An asyncio event loop on virtual time: when nothing is ready, its clock jumps to the next timer.

One thread, no sockets, no signals: what would leave the process is refused, so that a run depends on nothing
but its plan. `refuse_real_time` refuses what does not go through the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any, Final, NoReturn, Protocol

__all__ = ["Deadlock", "Network", "RealTimeError", "StandStill", "VirtualLoop", "refuse_real_time"]

_MOST_ROUNDS_AT_ONCE: Final = 200_000


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set, and somebody still waits."""


class StandStill(RuntimeError):
    """The loop goes round and round and its clock does not move."""


class RealTimeError(RuntimeError):
    """Something wanted a thread, a socket or real time."""


class Network(Protocol):
    """What serves `create_connection`."""

    async def connect(
        self, protocol_factory: Callable[[], Any], host: str
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Raises `OSError` as a socket would."""
        ...


class _Timer(asyncio.TimerHandle):
    """A timer that keeps the order of equal times: asyncio's heap keeps none."""

    __slots__ = ("_serial",)

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Any, serial: int) -> None:
        super().__init__(when, callback, args, loop, context)
        self._serial = serial

    def __lt__(self, other: Any) -> bool:
        return (self._when, self._serial) < (other._when, other._serial)  # type: ignore[attr-defined]


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` is in virtual seconds; `network`, if set, makes connections.

    Errors that no task took are kept in `errors` (the loop's exception contexts). `run_in_executor` calls
    inline: time stands still meanwhile.
    """

    _scheduled: list[Any]

    def __init__(self, start_s: float = 1000.0) -> None:
        super().__init__()
        self._now_s = start_s
        self._selector = self  # BaseEventLoop._run_once calls its `select` and nothing else
        self._clock_resolution = 1e-9  # 0 would keep a timer that is due exactly now waiting
        self._serial = 0
        self._rounds_at_once = 0
        self._thread = threading.get_ident()
        self.network: Network | None = None
        self.errors: list[dict[str, Any]] = []
        self.num_rounds = 0
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        self._serial += 1
        timer = _Timer(when, callback, args, self, context, self._serial)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def timers(self) -> list[str]:
        """What the timers that are set will call: module and qualified name."""
        return [_name(timer._callback) for timer in self._scheduled if not timer.cancelled()]

    def select(self, timeout: float | None) -> list[Any]:
        """The selector's part of a round: jumps to the next timer if nothing is ready."""
        self.num_rounds += 1
        if timeout is None:
            raise Deadlock(f"everybody waits at {self._now_s:.3f} s")
        if timeout > 0:
            self._now_s = max(self._now_s, self._scheduled[0].when())
            self._rounds_at_once = 0
        self._rounds_at_once += 1
        if self._rounds_at_once > _MOST_ROUNDS_AT_ONCE:
            raise StandStill(f"time stands still at {self._now_s:.3f} s")
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in a real selector."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise RealTimeError("another thread called into virtual time")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, *_: Any, **__: Any) -> Any:
        if self.network is None:
            raise RealTimeError("no network in this run")
        return await self.network.connect(protocol_factory, host)

    async def getaddrinfo(self, *_: Any, **__: Any) -> NoReturn:
        raise RealTimeError("no names are looked up in virtual time")

    async def create_server(self, *_: Any, **__: Any) -> NoReturn:
        raise RealTimeError("no sockets in virtual time")

    def close(self) -> None:
        for timer in self._scheduled:
            timer.cancel()
        super().close()


def _name(callback: Any) -> str:
    return f"{callback.__module__}.{getattr(callback, '__qualname__', type(callback).__qualname__)}"


@contextlib.contextmanager
def refuse_real_time() -> Iterator[None]:
    """Within it, sleeping for real, starting a thread and connecting a socket raise `RealTimeError`."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RealTimeError("virtual time refuses threads, sockets and real sleep")

    before = time.sleep, threading.Thread.start, socket.socket.connect
    time.sleep, threading.Thread.start, socket.socket.connect = refuse, refuse, refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        time.sleep, threading.Thread.start, socket.socket.connect = before  # type: ignore[method-assign]
