"""The drafting thread: owns the `Drafter`, drafts for all open sequences in one model call at a time.

The event loop talks to it through a queue; it answers with events, in order, on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_agent.drafter import Drafter, DraftToken, TokenPicker
from edge_agent.errors import DraftCapacityError, EdgeError
from edge_agent.sampling.contained import ContainedPicker
from edge_agent.sampling.greedy import GreedyPicker

T = TypeVar("T")
logger = logging.getLogger("pipesd.draft")


@dataclass(frozen=True, slots=True)
class Drafted:
    """The sequence grew by one draft, at `position`; the model call for it ran from start to end."""

    position: int
    draft: DraftToken
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """Drafts from `position` on were wrong and have been taken back; what follows builds on the truth."""

    position: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No more drafts will come: the draft context is full, or the model `failed`."""

    reason: str
    failed: bool = False


DraftEvent = Drafted | Rewound | Exhausted
OnEvent = Callable[[DraftEvent], None]


class _Sequence:
    """A sequence as the thread sees it. `limit`: draft up to this length."""

    def __init__(self, tokens: list[int], limit: int, on_event: OnEvent, picker: ContainedPicker) -> None:
        self.tokens = tokens
        self.limit = limit
        self.on_event = on_event
        self.picker = picker
        self.exhausted = False

    def wants_draft(self) -> bool:
        return not self.exhausted and len(self.tokens) < self.limit


class DraftHandle:
    """One open sequence, as the event loop holds it. All methods return at once."""

    def __init__(self, worker: DraftWorker, sequence: int) -> None:
        self._worker = worker
        self._sequence = sequence

    def commit(
        self, position: int, tokens: Sequence[int], limit: int, *, contradicts_drafts: bool = False
    ) -> None:
        """The target committed `tokens` at `position`; draft on up to length `limit`.

        `contradicts_drafts`: what is being drafted now is known to be void.
        """
        if contradicts_drafts:
            self._worker.abort_call_for(self._sequence)
        self._worker.post(lambda: self._worker.apply_commit(self._sequence, position, list(tokens), limit))

    def set_limit(self, limit: int) -> None:
        """Draft on up to length `limit` only."""
        self._worker.post(lambda: self._worker.apply_limit(self._sequence, limit))

    def close(self) -> None:
        """No events come after this; the evaluated prefix stays reusable."""
        self._worker.post(lambda: self._worker.apply_close(self._sequence))


class DraftWorker:
    """Runs a drafter in its own thread. Create and use from one event loop."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float] = time.monotonic) -> None:
        self._drafter = drafter
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sequences: dict[int, _Sequence] = {}
        self._drafting_for: list[int] = []
        self._thread = threading.Thread(target=self._run, name="pipesd-draft", daemon=True)
        self._thread.start()

    @property
    def drafter(self) -> Drafter:
        """Only for its constant `info`; everything else belongs to the thread."""
        return self._drafter

    async def open(
        self, tokens: Sequence[int], limit: int, on_event: OnEvent, picker: TokenPicker | None = None
    ) -> DraftHandle:
        """Start drafting after `tokens`, as `Drafter.open`. Raises `DraftCapacityError`.

        A `picker` that fails ends the drafts of this sequence alone.
        """
        started = list(tokens)
        opening = asyncio.ensure_future(
            self.run(lambda _: self._apply_open(started, limit, on_event, picker))
        )
        try:
            return DraftHandle(self, await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_unclaimed)
            raise

    async def run(self, function: Callable[[Drafter], T]) -> T:
        """Call `function(drafter)` in the thread and wait for its result."""
        future: asyncio.Future[T] = self._loop.create_future()

        def command() -> None:
            try:
                result = function(self._drafter)
            except Exception as error:  # handed to the caller, whatever it is
                self._notify(_reject, future, error)
            else:
                self._notify(_resolve, future, result)

        self.post(command)
        return await future

    def abort_call_for(self, sequence: int) -> None:
        """Cut the running model call short if it drafts for `sequence` alone; only for `DraftHandle`.

        With others in the call it does not pay: their drafts would be lost. Should the call
        return just now, the next one is cut short at once and repeated.
        """
        if self._drafting_for == [sequence]:
            self._drafter.request_abort()

    def post(self, command: Callable[[], None]) -> None:
        """Queue a command for the thread; only for `DraftHandle`."""
        self._commands.put(command)

    async def close(self) -> None:
        """Stop the thread and free the model. Idempotent."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)
        self._drafter.close()

    def _close_unclaimed(self, opening: asyncio.Future[int]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            DraftHandle(self, opening.result()).close()

    # -- in the thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception as error:  # a bug must not leave generations waiting for drafts
                logger.exception("drafting failed")
                for sequence in self._sequences.values():
                    self._exhaust(sequence, f"drafting failed: {error}", failed=True)
            else:
                return

    def _serve(self) -> None:
        while True:
            wanted = [i for i, sequence in self._sequences.items() if sequence.wants_draft()]
            if not self._take_commands(block=not wanted):
                return
            wanted = [i for i in wanted if i in self._sequences and self._sequences[i].wants_draft()]
            if wanted:
                self._draft(wanted)

    def _take_commands(self, *, block: bool) -> bool:
        """Run queued commands; False when asked to stop."""
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            block = False

    def _draft(self, wanted: list[int]) -> None:
        started_s = self._clock()
        self._drafting_for = wanted
        try:
            drafts = self._drafter.draft(wanted)
        except EdgeError as error:
            for i in wanted:
                self._exhaust(self._sequences[i], str(error), failed=True)
            return
        finally:
            self._drafting_for = []
        ended_s = self._clock()
        for i in wanted:
            sequence = self._sequences[i]
            draft = drafts.get(i)
            if sequence.picker.failure is not None:
                self._exhaust(sequence, sequence.picker.failure, failed=True)
            elif draft is not None:
                event = Drafted(len(sequence.tokens), draft, started_s, ended_s)
                self._notify(sequence.on_event, event)
                sequence.tokens.append(draft.token_id)
            elif self._drafter.room(i) <= 0:
                self._exhaust(sequence, "the draft context is full")

    def _apply_open(
        self, tokens: list[int], limit: int, on_event: OnEvent, picker: TokenPicker | None
    ) -> int:
        contained = ContainedPicker(picker or GreedyPicker())
        number = self._drafter.open(tokens, contained)
        self._sequences[number] = _Sequence(tokens, limit, on_event, contained)
        return number

    def apply_commit(self, number: int, position: int, tokens: list[int], limit: int) -> None:
        """Thread side of `DraftHandle.commit`: rewind only where the drafts disagree."""
        sequence = self._sequences.get(number)
        if sequence is None or sequence.exhausted:
            return
        sequence.limit = limit
        keep = position
        for token in tokens:
            if keep >= len(sequence.tokens) or sequence.tokens[keep] != token:
                break
            keep += 1
        missing = tokens[keep - position :]
        if not missing:
            return
        rewound = keep < len(sequence.tokens)
        try:
            self._drafter.rewrite(number, keep, missing)
        except EdgeError as error:
            self._exhaust(sequence, str(error), failed=not isinstance(error, DraftCapacityError))
            return
        sequence.tokens[keep:] = missing
        if rewound:
            self._notify(sequence.on_event, Rewound(keep))

    def apply_limit(self, number: int, limit: int) -> None:
        """Thread side of `DraftHandle.set_limit`."""
        if (sequence := self._sequences.get(number)) is not None:
            sequence.limit = limit

    def apply_close(self, number: int) -> None:
        """Thread side of `DraftHandle.close`."""
        if self._sequences.pop(number, None) is not None:
            self._drafter.close_sequence(number)

    def _exhaust(self, sequence: _Sequence, reason: str, *, failed: bool = False) -> None:
        sequence.exhausted = True
        self._notify(sequence.on_event, Exhausted(reason, failed))

    def _notify(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
