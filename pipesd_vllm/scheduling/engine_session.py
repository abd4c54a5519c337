"""One session as the scheduler sees it: its draft trie, whether it wants a target pass, its counters.

Pure: vLLM's request is only read through the numbers passed in; time comes from the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipesd_vllm.scheduling.budget import DraftRecord
from pipesd_vllm.scheduling.commands import AddDrafts, PassReport
from pipesd_vllm.scheduling.edge_pace import EdgePace
from pipesd_vllm.scheduling.trie import DraftTrie, Node
from pipesd_vllm.wire import common_prefix_length

_WAIT_OF_SOLE = 0.05
"""Tokens that waiting for a step to end costs a session that has the engine to itself."""


class EngineSession:
    """Drafts and counters of one turn inside the engine process. Times in seconds.

    The methods stand in the order of a round: drafts are added, the session wants a pass, drafts are
    offered and staged, the pass starts, the pass finishes.
    """

    def __init__(
        self,
        num_tokens: int,
        eager: bool,
        now_s: float,
        num_committed: int = 0,
        tenants: DraftRecord | None = None,
    ) -> None:
        """`num_tokens`: of the prompt, and `num_committed` generated before (a session taken over).

        `tenants` is its tenant's record of drafts.
        """
        self.num_committed = num_committed
        self._begun_at = num_tokens
        self.trie = DraftTrie(num_tokens)
        self.report = PassReport()
        self.record = DraftRecord(tenants)
        self._pace = EdgePace()
        self._eager = eager
        self._decodes_alone = False
        self._staged: list[Node] = []
        self._resumes = False
        """The edge sent the staged drafts for other positions, and the trie offers them again by itself."""
        self._released_s: float | None = None
        self._started_s: deque[float] = deque()
        """When the passes in flight were scheduled."""
        self._finished_s = 0.0

    @property
    def frontier(self) -> int:
        """The position that the next committed token will have."""
        return self.trie.frontier

    def add(self, drafts: AddDrafts, tokens: Sequence[int], now_s: float) -> None:
        """Take a frame's `tokens` into the trie; the frame, or an eager session, lets them be verified."""
        num_live = self.trie.add(
            drafts.first, drafts.base, drafts.anchor, tokens, drafts.parents, drafts.confidences
        )
        if not drafts.anchor:
            agreed = self.trie.num_agreed(drafts.base, tokens)
            self._pace.on_drafts(drafts.delay_s, drafts.base + agreed, fit=num_live > 0)
        if drafts.verify or self._eager:
            self.release(now_s)

    def release(self, now_s: float) -> None:
        """Let the drafts held now be verified."""
        self.trie.release()
        if not self.trie.has_released():
            return
        self._decodes_alone = False
        if self._released_s is None:
            self._released_s = now_s

    def decode_alone(self, frontier: int | None = None) -> None:
        """Decode without drafts until some arrive; does nothing if the frontier has moved on from `frontier`.

        The edge gets its patience once for every sign of life, not for each token: an edge that still reads
        its prompt, or has died, would hold up every token anew.
        """
        self._decodes_alone = self._decodes_alone or frontier in (None, self.frontier)

    def set_eager(self, eager: bool) -> None:
        """Decode without waiting for drafts from now on, or wait for them."""
        self._eager = eager
        self._decodes_alone = False

    def wants_pass(self) -> bool:
        """Whether a fully computed sequence should take part in the next step; if not, it is parked."""
        return self._eager or self._decodes_alone or self.trie.has_released()

    def runs_free(self, limit: int, price: float = 0.0, *, sole_at_s: float | None = None) -> bool:
        """Whether it decodes by itself and has no drafts worth waiting for, of at most `limit`.

        Drafts hang from a token that the step in flight gives. To wait for it costs the session a step, so a
        token; the drafts behind that one bring as many as are likely right, if they are worth `price`.
        `sole_at_s`: the time, if the engine has nothing else to compute. Then to wait costs next to nothing:
        a small chance of a token is worth it, and the session also waits while drafts are on their way. Those
        that come in the middle of a step are then verified in the next one, and not in the one after.
        """
        if not (self._eager or self._decodes_alone):
            return False
        if not self.trie.has_released():
            return sole_at_s is None or not self._pace.expects(sole_at_s)
        if sole_at_s is not None and self._pace.saves:
            return False
        least = price * self.record.pace
        worth = sum(survival for survival in self.offer(limit)[1:] if survival > least)
        return worth <= (1.0 if sole_at_s is None else _WAIT_OF_SOLE)

    def awaits_drafts(self, now_s: float) -> bool:
        """Whether drafts are due so soon that a step of its own would hold them up more than it yields."""
        return not self.trie.has_released() and self._pace.is_worth_waiting(now_s)

    def offer(self, limit: int) -> list[float]:
        """The survivals of the drafts, at most `limit`, that the next step could verify."""
        return self.record.survivals(node.confidence for node in self.trie.offered(limit))

    def stage(self, limit: int) -> list[int]:
        """The draft tokens (at most `limit`) for the next step."""
        self._staged, self._resumes = self.trie.offered(limit), not self.trie.has_drafts
        return [node.token for node in self._staged]

    def start_pass(self, num_drafts: int, now_s: float) -> None:
        """A step that includes this session was scheduled with the first `num_drafts` staged drafts."""
        self._staged = self._staged[:num_drafts]
        self._started_s.append(now_s)

    def finish_pass(self, new_tokens: Sequence[int], now_s: float) -> None:
        """The step's result: `new_tokens` are committed. One without any has computed a part of the context.

        Such a step says nothing of what a pass takes and brings. It counts as one where the context was
        computed before, but not for the prompt: to stream the answer takes those steps, too.
        """
        report = self.report
        started_s: float | None = None
        if self._started_s:
            # With async scheduling a pass is scheduled while the one before it still runs.
            started_s = max(self._started_s.popleft(), self._finished_s)
            self._finished_s = now_s
        if not new_tokens:
            report.passes += self.frontier > self._begun_at
            return
        report.passes += 1
        num_accepted = common_prefix_length([node.token for node in self._staged], new_tokens)
        if self._resumes:
            report.resumed += len(self._staged)
        else:
            report.drafted += len(self._staged)
            report.accepted += num_accepted
        self.record.observe([node.confidence for node in self._staged], num_accepted, len(new_tokens))
        if started_s is not None:
            report.step_ms = (now_s - started_s) * 1e3
            report.queue_ms = max(0.0, started_s - (self._released_s or started_s)) * 1e3
        had_drafts = self.trie.has_released()
        self.trie.commit(new_tokens)
        self._pace.on_pass(self.frontier, len(new_tokens), len(self._staged), report.step_ms / 1e3, now_s)
        if had_drafts and not self.trie.has_released():
            self._pace.on_run_out(now_s)
        self._staged = []
        self._released_s = now_s if self.trie.has_released() else None
