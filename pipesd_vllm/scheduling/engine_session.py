"""One session as the scheduler sees it: its draft trie and whether it wants a target pass.

Pure: vLLM's request is only read through the numbers passed in; time comes from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from pipesd_vllm.scheduling.trie import DraftTrie
from pipesd_vllm.wire import common_prefix_length

REPORT_KEY: Final = "pipesd"


@dataclass(slots=True)
class PassReport:
    """Totals since the session began, so that a merged or lost output loses no count.

    `queue_ms` and `step_ms` are those of the last pass: how long released drafts waited
    for it to start, and how long it took from scheduling to its result. `own_ms` is what the
    scheduler's hooks took since the report before.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    queue_ms: float = 0.0
    step_ms: float = 0.0
    own_ms: float = 0.0

    def pack(self) -> dict[str, Any]:
        """As the free-form dictionary of an engine output."""
        return {REPORT_KEY: list(astuple(self))}

    @staticmethod
    def unpack(params: dict[str, Any] | None) -> PassReport | None:
        packed = (params or {}).get(REPORT_KEY)
        return None if packed is None else PassReport(*packed)


class EngineSession:
    """Drafts and counters of one turn inside the engine process. Times in seconds."""

    def __init__(self, prompt_len: int, eager: bool, now_s: float, num_committed: int = 0) -> None:
        """`num_committed`: the last so many prompt tokens were generated before (a session taken over)."""
        self.num_committed = num_committed
        self.trie = DraftTrie(prompt_len)
        self.report = PassReport()
        self.last_active_s = now_s
        self._eager = eager
        self._alone = False
        self._staged: list[int] = []
        self._released_s: float | None = None
        self._started_s: float | None = None

    @property
    def frontier(self) -> int:
        return self.trie.frontier

    def release(self, now_s: float) -> None:
        """The drafts held now may be verified."""
        self.trie.release()
        self.last_active_s = now_s
        if not self.trie.has_released():
            return
        self._alone = False
        if self._released_s is None:
            self._released_s = now_s

    def go_alone(self, frontier: int) -> None:
        """Decode without drafts until some arrive; nothing, if tokens were committed since it was asked for.

        Patience is granted once for every sign of life: an edge that still reads its prompt,
        or has died, does not hold up each token anew.
        """
        self._alone = self._alone or frontier == self.frontier

    def wants_pass(self) -> bool:
        """Whether a fully computed sequence should take part in the next step."""
        return self._eager or self._alone or self.trie.has_released()

    def stage(self, limit: int) -> list[int]:
        """The draft tokens (at most `limit`) for the next step."""
        self._staged = self.trie.best_chain(limit)
        return list(self._staged)

    def start_pass(self, num_drafts: int, now_s: float) -> None:
        """A step that includes this session was scheduled with the first `num_drafts` staged drafts."""
        self._staged = self._staged[:num_drafts]
        self._started_s = now_s

    def finish_pass(self, new_tokens: Sequence[int], now_s: float) -> None:
        """The step's result: `new_tokens` are committed."""
        report = self.report
        report.passes += 1
        report.drafted += len(self._staged)
        report.accepted += common_prefix_length(self._staged, new_tokens)
        if self._started_s is not None:
            report.step_ms = (now_s - self._started_s) * 1e3
            report.queue_ms = max(0.0, self._started_s - (self._released_s or self._started_s)) * 1e3
        self.trie.commit(new_tokens)
        self._staged = []
        self._released_s = now_s if self.trie.has_released() else None
        self.last_active_s = now_s
