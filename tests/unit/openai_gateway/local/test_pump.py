from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from openai_gateway.local import Pump


class Source:
    """Counts up, waits forever at `stall_at`, raises at `fail_at`, and notes how it was closed."""

    def __init__(self, num: int, *, fail_at: int = -1, stall_at: int = -1) -> None:
        self.num, self.fail_at, self.stall_at = num, fail_at, stall_at
        self.is_closed = False
        self.clean_up_finished = False

    async def items(self) -> AsyncIterator[int]:
        try:
            for item in range(self.num):
                if item == self.fail_at:
                    raise ValueError("scripted")
                await (asyncio.Event().wait() if item == self.stall_at else asyncio.sleep(0))
                yield item
        finally:
            self.is_closed = True
            await asyncio.sleep(0.01)
            self.clean_up_finished = True


async def test_hands_over_all_items_in_order() -> None:
    """A pump gives what its source gives."""
    assert [item async for item in Pump(Source(5).items())] == [0, 1, 2, 3, 4]


async def test_error_comes_after_the_items_before_it() -> None:
    """Items given before a failure are readable, then the failure is raised."""
    pump = Pump(Source(5, fail_at=2).items())
    assert [await anext(pump), await anext(pump)] == [0, 1]
    with pytest.raises(ValueError, match="scripted"):
        await anext(pump)


async def test_peek_does_not_take() -> None:
    """Peeking waits for the first item and leaves it there."""
    pump = Pump(Source(2).items())
    assert await pump.peek(20.0) == 0
    assert [item async for item in pump] == [0, 1]


async def test_peek_times_out_and_tells_early_failures() -> None:
    """Peeking gives None when nothing comes in time, and raises a failure that precedes the first item."""
    stalled = Pump(Source(1, stall_at=0).items())
    assert await stalled.peek(0.01) is None
    await stalled.aclose()
    with pytest.raises(ValueError, match="scripted"):
        await Pump(Source(1, fail_at=0).items()).peek(20.0)


async def test_peek_at_an_empty_source() -> None:
    """A source without items peeks as None at once."""
    assert await Pump(Source(0).items()).peek(20.0) is None


async def test_aclose_stops_a_stalled_source_and_waits_for_its_clean_up() -> None:
    """Closing interrupts a source that waits, and returns when its clean-up is done."""
    source = Source(3, stall_at=1)
    pump = Pump(source.items())
    await pump.peek(20.0)
    await pump.aclose()
    await pump.aclose()
    assert source.clean_up_finished


async def test_clean_up_survives_a_cancelled_reader() -> None:
    """A reader in a cancelled scope, which cancels every wait, still lets the clean-up finish."""
    source = Source(3, stall_at=1)
    pump = Pump(source.items())
    await pump.peek(20.0)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pump.aclose()
    assert source.clean_up_finished


class EagerSource:
    """An iterator that holds something from its creation on."""

    def __init__(self) -> None:
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        return 1

    async def aclose(self) -> None:
        self.is_closed = True


async def test_cancelled_before_its_first_step_closes_the_source() -> None:
    """A pump closed right after its creation reads nothing and closes its source all the same."""
    source = EagerSource()
    await Pump(source).aclose()
    assert source.is_closed
