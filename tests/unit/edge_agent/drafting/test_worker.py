"""The drafting thread."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.drafting import Drafted, DraftEvent, DraftingStopped, DraftThread, Rewound
from edge_agent.errors import DraftCapacityError, ModelError
from edge_agent.sampling import DraftToken
from edge_agent.testing import FakeDrafter

from ..conftest import VOCABULARY, target_next, target_text

PROMPT = [1, 2, 3]


class Log:
    """Events as they arrive; `until` waits for one that satisfies a condition."""

    def __init__(self) -> None:
        self.events: list[DraftEvent] = []
        self._news = asyncio.Event()

    def __call__(self, event: DraftEvent) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, condition: Callable[[list[DraftEvent]], bool]) -> None:
        while not condition(self.events):
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)

    @property
    def tokens(self) -> list[int]:
        return [event.draft.token_id for event in self.events if isinstance(event, Drafted)]


async def test_drafts_up_to_the_limit_and_no_further(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Five positions of room give five drafts, in order, with the time each took."""
    worker, log = DraftThread(make_drafter()), Log()
    await worker.open(PROMPT, 8, log)
    await log.until(lambda events: len(events) == 5)
    await worker.run(lambda drafter: None)
    assert log.tokens == target_text(PROMPT, 5)
    assert [event.position for event in log.events if isinstance(event, Drafted)] == [3, 4, 5, 6, 7]
    assert all(event.ended_s >= event.started_s for event in log.events if isinstance(event, Drafted))
    await worker.close()


async def test_agreeing_commits_do_not_rewind(make_drafter: Callable[..., FakeDrafter]) -> None:
    """What was drafted and committed alike stays; drafting goes on to the new limit."""
    worker, log = DraftThread(make_drafter()), Log()
    handle = await worker.open(PROMPT, 6, log)
    await log.until(lambda events: len(events) == 3)
    handle.follow(3, target_text(PROMPT, 2), 8)
    await log.until(lambda events: len(events) == 5)
    assert log.tokens == target_text(PROMPT, 5)
    await worker.close()


async def test_a_contradiction_rewinds_to_it(make_drafter: Callable[..., FakeDrafter]) -> None:
    """After a wrong draft the sequence holds the committed token and drafts on from there."""
    worker, log = DraftThread(make_drafter(wrong_every=4)), Log()
    handle = await worker.open(PROMPT, 6, log)
    await log.until(lambda events: len(events) == 3)
    handle.follow(3, target_text(PROMPT, 2), 7, contradicts_drafts=True)
    await log.until(lambda events: any(isinstance(event, Rewound) for event in events))
    await log.until(lambda events: getattr(events[-1], "position", 0) == 6)
    assert Rewound(4) in log.events
    assert log.events[-2].position == 5  # type: ignore[union-attr]
    await worker.close()


async def test_a_full_context_is_said_once(make_drafter: Callable[..., FakeDrafter]) -> None:
    """At the end of the draft's context the session hears it, and later commits are ignored."""
    worker, log = DraftThread(make_drafter(context_length=6)), Log()
    handle = await worker.open(PROMPT, 50, log)
    await log.until(lambda events: any(isinstance(event, DraftingStopped) for event in events))
    handle.follow(3, [9] * 20, 60)
    await worker.run(lambda drafter: None)
    exhausted = [event for event in log.events if isinstance(event, DraftingStopped)]
    assert [event.failed for event in exhausted] == [False]
    await worker.close()


async def test_opening_without_room_raises(make_drafter: Callable[..., FakeDrafter]) -> None:
    """A prompt that does not fit is a typed error, and the thread lives on."""
    worker = DraftThread(make_drafter(context_length=2))
    with pytest.raises(DraftCapacityError):
        await worker.open(PROMPT, 8, Log())
    assert await worker.run(lambda drafter: drafter.info.name) == "fake"
    await worker.close()


class BrokenDrafter(FakeDrafter):
    """Fails on its third call, as a model with damaged weights would."""

    def __init__(self, error: Exception) -> None:
        super().__init__(lambda tokens: DraftToken(target_next(tokens), 0.9), VOCABULARY)
        self._error = error
        self._calls = 0

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        self._calls += 1
        if self._calls > 2:
            raise self._error
        return super().draft(sequences)


@pytest.mark.parametrize("error", [ModelError("NaN"), RuntimeError("bug")])
async def test_a_failing_model_is_reported_not_waited_for(error: Exception) -> None:
    """Whatever the model raises, the session hears that no more drafts will come."""
    worker, log = DraftThread(BrokenDrafter(error)), Log()
    await worker.open(PROMPT, 20, log)
    await log.until(lambda events: any(isinstance(event, DraftingStopped) for event in events))
    assert isinstance(log.events[-1], DraftingStopped)
    assert log.events[-1].failed
    await worker.close()


async def fits(worker: DraftThread, log: Log) -> bool:
    """Open a sequence, if there is room for it."""
    try:
        await worker.open(PROMPT, 4, log)
    except DraftCapacityError:
        return False
    return True


class Failing:
    """A picker that fails."""

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        raise IndexError("bug")

    def rewind(self, length: int) -> None: ...


async def test_a_failing_picker_ends_its_own_drafts_alone() -> None:
    """Another sequence of the same model call gets all its drafts, each in its place."""
    logits = np.eye(len(VOCABULARY), dtype=np.float32)
    worker = DraftThread(FakeDrafter(lambda tokens: logits[target_next(tokens)], VOCABULARY))
    good, bad = Log(), Log()
    await asyncio.gather(worker.open(PROMPT, 12, good), worker.open([4, 5], 12, bad, Failing()))
    await good.until(lambda events: len(events) == 9)
    await bad.until(lambda events: len(events) == 1)
    assert good.tokens == target_text(PROMPT, 9)
    assert bad.events == [DraftingStopped("drafting failed: IndexError('bug')", failed=True)]
    await worker.close()


async def test_an_abandoned_opening_leaves_no_sequence(make_drafter: Callable[..., FakeDrafter]) -> None:
    """Whoever gives up while the thread is busy leaves no sequence behind."""
    worker = DraftThread(make_drafter(max_sequences=1))
    gate = threading.Event()
    busy = asyncio.ensure_future(worker.run(lambda drafter: gate.wait(60)))
    opening = asyncio.ensure_future(worker.open(PROMPT, 8, Log()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.set()
    await busy
    log = Log()
    async with asyncio.timeout(60):
        while not await fits(worker, log):  # noqa: ASYNC110 - nothing tells that a sequence was closed
            await asyncio.sleep(0.01)
    await log.until(lambda events: len(events) == 1)
    await worker.close()
