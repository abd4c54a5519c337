"""The virtual loop: time that jumps, an order that is kept, nothing that leaves the process."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from benchmarks.sim.loop import Deadlock, RealTimeError, StandStill, VirtualLoop, refuse_real_time

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_an_hour_takes_no_time() -> None:
    """A sleep moves the clock by just its length."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.sleep(3600.0)
        return loop.time() - began_s

    real_s = time.perf_counter()
    assert run(main()) == pytest.approx(3600.0)
    assert time.perf_counter() - real_s < 5.0


def test_timers_of_one_moment_keep_their_order() -> None:
    """asyncio's own heap does not: channels made of `call_at` would mix up their data."""

    async def main() -> list[int]:
        loop, seen = asyncio.get_running_loop(), []
        times = [loop.time() + random.Random(7).choice([1.0, 2.0, 3.0]) for _ in range(3)]
        for number in range(300):
            loop.call_at(times[number % 3], seen.append, number)
        await asyncio.sleep(5.0)
        return seen

    seen = run(main())
    assert len(seen) == 300
    for first in range(3):
        assert [n for n in seen if n % 3 == first] == list(range(first, 300, 3))


def test_waiting_for_nothing_is_a_deadlock() -> None:
    """A real loop would wait for ever."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main())


def test_going_round_without_time_is_noticed() -> None:
    """A busy loop would never let the clock jump."""

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StandStill):
        run(main())


def test_executors_run_inline() -> None:
    """`to_thread` works, exceptions and all, in the loop's own thread."""

    async def main() -> int:
        assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return 1

    assert run(main()) == 1


def test_what_would_leave_virtual_time_is_refused() -> None:
    """Sockets, name look-ups, threads and real sleep, through the loop or beside it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RealTimeError):
            await loop.create_server(asyncio.Protocol, "localhost", 0)
        with pytest.raises(RealTimeError):
            await loop.getaddrinfo("localhost", 80)
        with pytest.raises(RealTimeError):
            await loop.create_connection(asyncio.Protocol, "localhost", 80)

    run(main())
    with refuse_real_time():
        with pytest.raises(RealTimeError):
            time.sleep(0.001)
        with pytest.raises(RealTimeError):
            threading.Thread(target=lambda: None).start()
        with socket.socket() as opened, pytest.raises(RealTimeError):
            opened.connect(("127.0.0.1", 1))
    time.sleep(0.0)


def test_an_error_that_nobody_takes_is_kept() -> None:
    """The world reports it as a finding."""
    loop = VirtualLoop()

    async def main() -> None:
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1.0)

    loop.run_until_complete(main())
    loop.close()
    assert [type(context["exception"]) for context in loop.errors] == [ZeroDivisionError]
