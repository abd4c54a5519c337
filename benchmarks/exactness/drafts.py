"""Drafts of every kind that the protocol lets an edge send: right, wrong, late, twice, in disorder. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipesd_vllm.wire import Draft

__all__ = ["KINDS", "DraftMaker"]

KINDS: Final = (
    "right",
    "wrong",
    "half",
    "stale",
    "ahead",
    "orphan",
    "branch",
    "duplicate",
    "shuffled",
    "reused_ids",
    "foreign_turn",
)
_NO_NODE: Final = 999_999


class DraftMaker:
    """Makes the frames of one turn. `truth` is what will be committed after `prompt_length` tokens."""

    def __init__(self, turn: int, prompt_length: int, truth: Sequence[int]) -> None:
        self._turn = turn
        self._prompt_length = prompt_length
        self._truth = truth
        self._next_id = 1
        self._last: list[Draft] = []

    def frames(self, kind: str, length: int, done: int, *, verify: bool = True) -> list[Draft]:
        """One of `KINDS` as seen by an edge that knows of `done` generated tokens, about `length` tokens.

        Each frame has fresh node ids, unless the kind says otherwise.
        """
        if kind != "duplicate" or not self._last:
            self._last = self._made(kind, length, done, verify)
        return self._last

    def _made(self, kind: str, length: int, done: int, verify: bool) -> list[Draft]:
        base = self._prompt_length + done
        tokens = list(self._truth[done : done + length]) or [1]
        match kind:
            case "wrong":
                return [self._frame(base, [token ^ 1 for token in tokens], verify)]
            case "half":
                tokens[length // 2 :] = [3] * len(tokens[length // 2 :])
                return [self._frame(base, tokens, verify)]
            case "stale":
                return [self._frame(max(0, base - 3), tokens, verify)]
            case "ahead":
                return [self._frame(base + 2, tokens, verify)]
            case "orphan":
                return [self._frame(base, tokens, verify, anchor=_NO_NODE)]
            case "branch":
                parents = [-1, -1, *range(1, len(tokens))]
                return [self._frame(base, [5, *tokens], verify, parents=parents)]
            case "shuffled":
                head = self._frame(base, tokens[:1], verify)
                tail = self._frame(base + 1, tokens[1:] or [1], verify, anchor=head.first)
                return [tail, head]
            case "reused_ids":
                return [self._frame(base, tokens, verify, first=1)]
            case "foreign_turn":
                return [self._frame(base, tokens, verify, turn=self._turn + 1)]
            case _:
                return [self._frame(base, tokens, verify)]

    def _frame(
        self,
        base: int,
        tokens: list[int],
        verify: bool,
        *,
        anchor: int = 0,
        parents: list[int] | None = None,
        turn: int | None = None,
        first: int | None = None,
    ) -> Draft:
        first = self._next_id if first is None else first
        # Ids given out of turn are taken, too: a later frame under them would be dropped as a whole.
        self._next_id = max(self._next_id, first + len(tokens))
        return Draft(self._turn if turn is None else turn, first, base, anchor, tokens, verify, parents)
