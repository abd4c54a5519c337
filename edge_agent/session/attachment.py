"""Attaches the drafting worker to a running answer and detaches it. The answer waits for none of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.api import GenerationRequest
from edge_agent.drafting import DraftEvent, DraftHandle, DraftingStopped, DraftWorker
from edge_agent.errors import EdgeError
from edge_agent.sampling import Pickers
from edge_agent.session.chain import DraftChain

__all__ = ["Attached", "AttachmentEvent", "DraftAttachment"]

logger = logging.getLogger("pipesd.edge")


@dataclass(frozen=True, slots=True)
class Attached:
    """Drafting has begun."""

    handle: DraftHandle


@dataclass(frozen=True, slots=True)
class AttachmentEvent:
    """What happened to attachment `number`; of an earlier one than the present it is void."""

    number: int
    event: DraftEvent | Attached


class DraftAttachment:
    """The drafts of one answer: none, on their way, or there. Every method returns at once.

    Attaching chooses a picker, which may compile a form, and waits for its turn at the worker; what came of
    it is told to `on_event`, as is every event of the drafts. Without a worker there are none.
    """

    def __init__(
        self,
        chain: DraftChain,
        worker: DraftWorker | None,
        pickers: Pickers,
        on_event: Callable[[AttachmentEvent], None],
    ) -> None:
        self._chain = chain
        self._worker = worker
        self._pickers = pickers
        self._on_event = on_event
        self._number = 0
        self._opening: asyncio.Task[DraftHandle | None] | None = None
        self._began_at = 0
        self.handle: DraftHandle | None = None
        """None while nothing is drafted."""

    @property
    def is_wanted(self) -> bool:
        """Whether drafts come, or will."""
        return self.handle is not None or self._opening is not None

    @property
    def num_committed(self) -> int:
        """Tokens committed since the drafts began; 0 until they have."""
        return self._chain.frontier - self._began_at if self.handle is not None else 0

    def attach(self, request: GenerationRequest, limit: int, *, fp64_noise: bool) -> None:
        """Begin to draft for `request`, up to length `limit` for now. Nothing may be attached."""
        assert not self.is_wanted, "detach first"
        if self._worker is not None:
            self._number += 1
            opening = self._open(self._worker, self._number, request, limit, fp64_noise=fp64_noise)
            self._opening = asyncio.create_task(opening)

    def detach(self) -> None:
        """Draft no more, and leave the place to another answer. Idempotent."""
        self._number += 1
        if self._opening is not None:
            self._opening.cancel()
            self._opening.add_done_callback(_close_opened)  # its event may never be taken
            self._opening = None
        if self.handle is not None:
            self.handle.close()
            self.handle = None

    def take(self, event: AttachmentEvent) -> DraftEvent | Attached | None:
        """The event, noted; None: it is void."""
        if event.number != self._number:
            return None
        match event.event:
            case Attached(handle):
                self.handle, self._opening, self._began_at = handle, None, self._chain.frontier
            case DraftingStopped():
                self.detach()
        return event.event

    async def _open(
        self, worker: DraftWorker, number: int, request: GenerationRequest, limit: int, *, fp64_noise: bool
    ) -> DraftHandle | None:
        def on_event(event: DraftEvent | Attached) -> None:
            self._on_event(AttachmentEvent(number, event))

        try:
            picker = await self._pickers.picker(request, fp64_noise=fp64_noise)
            handle = await worker.open(self._chain.tokens, limit, on_event, picker, slides=True)
            on_event(Attached(handle))
            return handle
        except EdgeError as error:
            on_event(DraftingStopped(str(error)))
        except Exception as error:  # drafts are a help only: what they fail of is no reason to end an answer
            logger.exception("drafting could not begin")
            on_event(DraftingStopped(f"drafting could not begin: {error!r}", failed=True))
        return None


def _close_opened(opening: asyncio.Task[DraftHandle | None]) -> None:
    if not opening.cancelled() and (handle := opening.result()) is not None:
        handle.close()
