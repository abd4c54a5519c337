"""An edge that knows the truth and lies about it in every way the protocol lets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.exactness.drafts import DraftMaker
from pipesd_vllm.wire import Mode

from .session_client import DEADLINE_S, Edge, opening

TURN: Final = 1


class HostileEdge:
    """Runs one turn of `len(truth)` tokens; `tokens` is what the server has committed.

    Checks that every commit continues the one before.
    """

    def __init__(self, edge: Edge, prompt: Sequence[int], truth: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.finished = False
        self._edge = edge
        self._prompt = prompt
        self._truth = truth
        self._drafts = DraftMaker(TURN, len(prompt), truth)

    async def open(self, mode: Mode) -> None:
        await self._edge.send(opening(self._prompt, len(self._truth), turn=TURN, mode=mode, patience_ms=20))

    async def draft(self, kind: str, length: int, verify: bool) -> None:
        """Send `length` drafts of this `kind`, as seen from the last commit read."""
        await self._edge.send(*self._drafts.frames(kind, length, len(self.tokens), verify=verify))

    async def look(self, timeout_s: float) -> None:
        """Take the next commit, if one comes in time."""
        if self.finished:
            return
        try:
            commit = await self._edge.commit(TURN, timeout_s)
        except TimeoutError:
            return
        assert commit.base == len(self._prompt) + len(self.tokens)
        self.tokens += commit.tokens
        self.finished = commit.finish_reason is not None

    async def tell_the_truth(self) -> None:
        """Draft rightly until the turn ends."""
        while not self.finished:
            await self.draft("right", 12, verify=True)
            before = len(self.tokens)
            await self.look(DEADLINE_S)
            assert self.finished or len(self.tokens) > before, "right drafts were not verified"
