"""A pipeline of known times: what a session would record, and when the server really worked."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.sampling import DraftToken
from edge_agent.tracing import MemoryRecorder, SessionTrace, TraceRecorder
from pipesd_vllm.wire import Commit, Draft

PROMPT_LEN = 20
START_S = 1000.0


@dataclass
class Link:
    """Constant times, in seconds."""

    draft_s: float = 0.008
    one_way_s: float = 0.025
    step_s: float = 0.040
    prefill_s: float = 0.060
    queue_s: float = 0.0
    """How long the server is busy with others before it begins a pass."""


@dataclass
class Pipeline:
    """Drafts, verifies and commits `num_tokens` tokens on a simulated clock.

    A draft is right with `accuracy`; verification is asked for every `window` drafts, and drafting goes
    on up to `max_ahead` beyond the frontier.
    """

    num_tokens: int = 60
    window: int = 4
    max_ahead: int = 10
    accuracy: float = 0.85
    seed: int = 0
    link: Link = field(default_factory=Link)
    recorder: TraceRecorder = field(default_factory=MemoryRecorder)
    request_id: str = "request-1"
    steps: list[tuple[float, float]] = field(default_factory=list)
    """When the server really worked."""

    def run(self) -> Pipeline:
        self._random = random.Random(self.seed)
        self._trace = SessionTrace(self.recorder)
        self._now, self._order = START_S, 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._frontier = self._server_frontier = PROMPT_LEN
        self._chain: list[int] = []
        self._num_sent = self._since_trigger = self._epoch = 0
        self._next_id = 1
        self._held: list[int] = []
        self._drafting = self._done = False
        self._stepping = True
        self._released_s: float | None = None
        self._trace.started(self._now, self.request_id, PROMPT_LEN, policy="adaptive", mode="balanced")
        self._trace.opened(self._now, 180)
        self._draft()
        self._at(self.link.one_way_s, lambda: self._step([], self.link.prefill_s))
        while self._agenda:
            self._now, _, action = heapq.heappop(self._agenda)
            action()
        return self

    def _at(self, delay_s: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (self._now + delay_s, self._order, action))

    def _truth(self, position: int) -> int:
        return 100 + position % 7

    # -- edge -----------------------------------------------------------------------------

    def _draft(self) -> None:
        if self._drafting or self._done or len(self._chain) >= self.max_ahead:
            return
        self._drafting = True
        begun_s, epoch, position = self._now, self._epoch, self._frontier + len(self._chain)
        probability = round(self._random.uniform(0.4, 1.0), 4)
        right = self._random.random() < self.accuracy
        token = self._truth(position) if right else 99
        self._at(
            self.link.draft_s,
            lambda: self._drafted(begun_s, epoch, position, DraftToken(token, probability)),
        )

    def _drafted(self, begun_s: float, epoch: int, position: int, draft: DraftToken) -> None:
        self._drafting = False
        if self._done:
            return
        self._trace.drafted(begun_s, self._now, position, draft)
        if epoch != self._epoch:
            self._trace.rolled_back(self._now, self._frontier, 0)
        elif position == self._frontier + len(self._chain):
            self._chain.append(draft.token_id)
            self._since_trigger += 1
            if self._since_trigger >= self.window:
                self._upload()
        self._draft()

    def _upload(self) -> None:
        self._since_trigger = 0
        tokens, base = self._chain[self._num_sent :], self._frontier + self._num_sent
        draft = Draft(1, self._next_id, base, 0, tokens)
        start, path = self._frontier, list(self._chain)
        self._next_id += len(tokens)
        self._num_sent = len(self._chain)
        self._trace.sent(self._now, draft, 20 + 2 * len(tokens))
        self._at(self.link.one_way_s, lambda: self._arrive(start, path))

    def _committed(self, commit: Commit) -> None:
        self._trace.committed(self._now, commit, 30)
        for token in commit.tokens:
            self._frontier += 1
            if self._chain and self._chain[0] == token:
                del self._chain[0]
                self._num_sent = max(0, self._num_sent - 1)
            elif self._chain:
                self._void()
        if self._frontier - PROMPT_LEN >= self.num_tokens:
            self._done = True
            self._trace.ended(self._now, "length")
        else:
            self._draft()

    def _void(self) -> None:
        self._chain, self._num_sent, self._since_trigger = [], 0, 0
        self._epoch += 1
        if not self._drafting:
            self._trace.rolled_back(self._now, self._frontier, 0)

    # -- server ---------------------------------------------------------------------------

    def _arrive(self, start: int, path: list[int]) -> None:
        """The frame of an upload, with all of the chain it hangs from."""
        committed = max(0, self._server_frontier - start)
        known = committed + len(self._held)
        expected = [self._truth(start + i) for i in range(committed)] + self._held
        if path[:known] == expected:
            self._held += path[known:]
        if self._released_s is None and self._held:
            self._released_s = self._now
        self._pass_if_due()

    def _pass_if_due(self) -> None:
        if self._held and not self._stepping:
            self._stepping = True
            self._at(self.link.queue_s, lambda: self._step(list(self._held), self.link.step_s))

    def _step(self, drafts: list[int], step_s: float) -> None:
        queue_s = self._now - (self._now if self._released_s is None else self._released_s)
        self.steps.append((self._now, self._now + step_s))
        self._at(step_s, lambda: self._stepped(drafts, step_s, queue_s))

    def _stepped(self, drafts: list[int], step_s: float, queue_s: float) -> None:
        base, new = self._server_frontier, []
        for drafted in [*drafts, None]:
            token = self._truth(self._server_frontier)
            new.append(token)
            self._server_frontier += 1
            head = self._held.pop(0) if self._held else None
            if head is not None and head != token:
                self._held.clear()
            if drafted != token:
                break
        accepted = sum(a == b for a, b in zip(new, drafts, strict=False))
        self._stepping = False
        self._released_s = self._now if self._held else None
        commit = Commit(1, base, new, 1, len(drafts), accepted, queue_s * 1e3, step_s * 1e3)
        self._at(self.link.one_way_s, lambda: None if self._done else self._committed(commit))
        self._pass_if_due()
