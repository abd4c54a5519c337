"""An edge that knows the truth and drafts it, or lies about it in every way that the protocol lets it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.exactness.drafts import DraftMaker
from pipesd_vllm.wire import Commit, Open

from .session_client import DEADLINE_S, Edge


class DraftingEdge:
    """Runs one turn on a connection; `truth` is what the target generates after the prompt.

    `tokens` are those committed so far, `commits` all frames that came. Checks that every commit continues
    the one before.
    """

    def __init__(self, edge: Edge, opened: Open, truth: Sequence[int]) -> None:
        self.tokens = list(opened.committed)
        self.commits: list[Commit] = []
        self._edge = edge
        self._opened = opened
        self._drafts = DraftMaker(opened.turn, len(opened.prompt), truth)

    @property
    def finished(self) -> bool:
        return bool(self.commits) and self.commits[-1].finish_reason is not None

    @property
    def accepted(self) -> int:
        """The number of drafts that the target kept."""
        return sum(commit.accepted for commit in self.commits)

    async def open(self) -> None:
        await self._edge.send(self._opened)

    async def draft(self, kind: str, length: int, *, verify: bool = True) -> None:
        """Send about `length` drafts of this kind (`drafts.KINDS`), as seen from the last commit read."""
        await self._edge.send(*self._drafts.frames(kind, length, len(self.tokens), verify=verify))

    async def look(self, timeout_s: float = DEADLINE_S) -> None:
        """Take the next commit. Raises `TimeoutError`."""
        commit = await self._edge.commit(self._opened.turn, timeout_s)
        assert commit.base == len(self._opened.prompt) + len(self.tokens)
        self.commits.append(commit)
        self.tokens += commit.tokens

    async def tell_the_truth(self) -> None:
        """Draft rightly until the turn ends."""
        while not self.finished:
            await self.draft("right", 12)
            before = len(self.tokens)
            await self.look()
            assert self.finished or len(self.tokens) > before, "right drafts were not verified"

    async def run(self, rng: random.Random, until: int | None = None) -> list[int]:
        """Open the turn and draft, now and then wrongly, until it ends or `until` tokens are there.

        Returns the tokens.
        """
        await self.open()
        while not self.finished and (until is None or len(self.tokens) < until):
            await self.look()
            if not self.finished:
                await self.draft(rng.choice(("right", "right", "half", "wrong")), rng.randint(1, 8))
        return self.tokens
