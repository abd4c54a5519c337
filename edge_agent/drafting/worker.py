"""Who owns the `Drafter`: drafts for all open sequences in one model call at a time, in a thread.

The event loop talks to it through a queue; it answers with events, in order, on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_agent.drafting.drafter import Drafter
from edge_agent.drafting.events import OnEvent
from edge_agent.drafting.loop import Drafting
from edge_agent.drafting.translation import TranslatingDrafter, VocabularyMap
from edge_agent.sampling import TokenPicker

__all__ = ["DraftHandle", "DraftThread", "DraftWorker"]

T = TypeVar("T")
Command = Callable[[], None]
logger = logging.getLogger("pipesd.draft")


class DraftHandle:
    """One open sequence, as the event loop holds it. All methods return at once.

    `post` queues a command for the drafting thread.
    """

    def __init__(
        self,
        drafting: Drafting,
        post: Callable[[Command], None],
        sequence: int,
        length: int,
        on_close: Callable[[], None],
    ) -> None:
        self.length = length
        """Tokens that drafting began after."""
        self._drafting = drafting
        self._post = post
        self._sequence = sequence
        self._on_close = on_close
        self._is_closed = False
        self.num_followed = 0
        """Calls of `follow` so far."""

    def follow(
        self, position: int, tokens: Sequence[int], limit: int, *, contradicts_drafts: bool = False
    ) -> None:
        """`tokens` were committed, or drafted elsewhere, at `position`; draft on up to length `limit`.

        `contradicts_drafts`: the drafts being made now, and those after `tokens`, are known to be void.
        """
        self.num_followed += 1
        if contradicts_drafts:
            self._drafting.abort_call_for(self._sequence)
        told = list(tokens)
        self._post(
            lambda: self._drafting.follow(
                self._sequence, position, told, limit, drops_rest=contradicts_drafts
            )
        )

    def set_limit(self, limit: int) -> None:
        """Draft on up to length `limit` only."""
        self._post(lambda: self._drafting.set_limit(self._sequence, limit))

    def close(self) -> None:
        """End it, and the model call that runs for it alone; the evaluated prefix stays reusable. Idempotent.

        Events that were on their way may still come.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._drafting.abort_call_for(self._sequence)
        self._post(lambda: self._drafting.close(self._sequence))
        self._on_close()


class DraftWorker(ABC):
    """Runs a drafter for the event loop that makes it. Subclasses say where the model's calls are made."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float]) -> None:
        """`clock` in seconds."""
        self._drafter = drafter
        self._translating = TranslatingDrafter(drafter)
        self._loop = asyncio.get_running_loop()
        self._drafting = Drafting(self._translating, clock, self._call_in_loop)
        self._slots = asyncio.Semaphore(drafter.info.max_sequences)
        self._num_waiting = 0

    @abstractmethod
    def _post(self, command: Command) -> None:
        """Run `command` between two model calls, after those posted before."""

    @abstractmethod
    async def close(self) -> None:
        """Stop drafting and free the model. Idempotent."""

    @property
    def drafter(self) -> Drafter:
        """Use its constant `info` only; everything else belongs to whoever drafts."""
        return self._drafter

    @property
    def num_waiting(self) -> int:
        """Callers of `open` that wait for a sequence to end."""
        return self._num_waiting

    async def open(
        self,
        tokens: Sequence[int],
        limit: int,
        on_event: OnEvent,
        picker: TokenPicker | None = None,
        *,
        slides: bool = False,
    ) -> DraftHandle:
        """Start drafting after `tokens`, as `Drafting.open`. Raises `DraftCapacityError`.

        Callers wait for one of the drafter's `max_sequences` in the order in which they came; then `tokens`
        are read. A `picker` that fails ends the drafts of this sequence only.
        """
        self._num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_waiting -= 1
        started = list(tokens)
        length = len(started)  # the thread adds to them
        opening = asyncio.ensure_future(
            self.run(lambda _: self._drafting.open(started, limit, on_event, picker, slides=slides))
        )
        try:
            return self._handle(await asyncio.shield(opening), length)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_unclaimed)
            raise
        except BaseException:
            self._slots.release()
            raise

    async def translate(self, target: Sequence[str] | None) -> VocabularyMap | None:
        """Draft in the ids of the vocabulary `target` from now on; None: in the model's own.

        `target` has the token strings in id order, as the tokenizer's file has them. Takes seconds.
        """
        made = None
        if target is not None:
            draft = await self.run(lambda drafter: drafter.vocabulary())
            made = await asyncio.to_thread(VocabularyMap, target, draft)

        def begin(_: Drafter) -> None:
            self._translating.vocabulary_map = made

        await self.run(begin)
        return made

    async def run(self, function: Callable[[Drafter], T]) -> T:
        """Call `function(drafter)` between two model calls and wait for its result."""
        future: asyncio.Future[T] = self._loop.create_future()

        def command() -> None:
            try:
                result = function(self._drafter)
            except Exception as error:  # handed to the caller, whatever it is
                self._call_in_loop(_reject, future, error)
            else:
                self._call_in_loop(_resolve, future, result)

        self._post(command)
        return await future

    def _handle(self, sequence: int, length: int) -> DraftHandle:
        return DraftHandle(self._drafting, self._post, sequence, length, self._slots.release)

    def _close_unclaimed(self, opening: asyncio.Future[int]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._slots.release()
        else:
            self._handle(opening.result(), 0).close()

    def _call_in_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)


class DraftThread(DraftWorker):
    """Drafts in a thread of its own. Create and use from one event loop."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(drafter, clock)
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pipesd-draft", daemon=True)
        self._thread.start()

    def _post(self, command: Command) -> None:
        self._commands.put(command)

    async def close(self) -> None:
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)
        self._drafter.close()

    # -- in the thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception as error:
                logger.exception("drafting failed")
                self._drafting.fail(f"drafting failed: {error}")
            else:
                return

    def _serve(self) -> None:
        while True:
            wanted = self._drafting.wanted()
            if not self._take_commands(block=not wanted):
                return
            self._drafting.draft(wanted)

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


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
