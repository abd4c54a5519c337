"""An edge in the model: the agent's own policy, chain and monitor over a draft model that is a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.netlink.model import LinkModel
from benchmarks.simulation.agreement import TracePoint
from benchmarks.simulation.events import Events
from benchmarks.simulation.server import SimulatedServer, right_token
from benchmarks.wire.padded import PUBLISHED_TOKEN_BYTES
from edge_agent.control import ChainView, Decision
from edge_agent.drafting import Drafted
from edge_agent.sampling import DraftToken
from edge_agent.session import ReceivedCommit, SessionControl
from edge_agent.session.chain import DraftChain
from pipesd_vllm.wire import Commit, Mode

__all__ = ["EdgeLink", "SimulatedEdge"]

PROMPT_LEN = 1
_OPEN_BYTES = 500
_HEADER_BYTES = 80  # IP, TCP, WebSocket, frame
_TOKEN_BYTES = 3
_RESEND_S = 0.25
"""A lost packet comes again after about that long."""


class EdgeLink:
    """Both directions of one edge's path, in order and complete as TCP is, and what is on the way besides."""

    def __init__(self, events: Events, up: LinkModel, down: LinkModel, front_s: float) -> None:
        self.events = events
        self._links = {True: up, False: down}
        self._last_s = {True: 0.0, False: 0.0}
        self._front_s = front_s

    def send(self, num_bytes: int, action: Callable[[], None], *, up: bool) -> None:
        """`action` once the message has arrived; later ones wait for one that must be sent again."""
        late_s = self._front_s / 2
        while (arrival_s := self._links[up].offer(self.events.now_s, num_bytes)) is None:
            late_s += _RESEND_S
        self._last_s[up] = max(self._last_s[up], arrival_s + late_s)
        self.events.at(self._last_s[up], action)


class SimulatedEdge:
    """Generates one text of `trace`'s length; `control` None: drafts nothing (plain streaming)."""

    def __init__(
        self,
        number: int,
        trace: Sequence[TracePoint],
        gamma_s: float,
        link: EdgeLink,
        server: SimulatedServer,
        control: SessionControl | None,
        mode: Mode,
        *,
        published: bool,
    ) -> None:
        self.started_s = self.finished_s = link.events.now_s
        self.num_passes = 0
        self._number = number
        self.trace = trace
        self._gamma_s = gamma_s
        self._link = link
        self._events = link.events
        self._server = server
        self._control = control
        self._mode = mode
        self._token_bytes = _TOKEN_BYTES + (PUBLISHED_TOKEN_BYTES if published else 0)
        self._end = PROMPT_LEN + len(trace)
        self._chain = DraftChain([0] * PROMPT_LEN, vocab_size=2 * self._end + 2)
        self._cursor = PROMPT_LEN
        self._on_path = True
        self._epoch = 0
        self._drafting = False
        self._verify_until = 0

    def start(self) -> None:
        """Open the turn and begin to draft, both at once."""
        patience_s = self._control.patience_ms / 1e3 if self._control is not None else 0.0
        arguments = self._number, PROMPT_LEN, len(self.trace), self._mode, patience_s, self._reply
        self._link.send(_OPEN_BYTES, lambda: self._server.open(*arguments), up=True)
        self._draft_next()

    # -- drafting -------------------------------------------------------------------------

    def _draft_next(self) -> None:
        if self._control is None or self._drafting or self._cursor >= self._limit():
            return
        self._drafting = True
        epoch, started_s = self._epoch, self._events.now_s
        self._events.after(self._gamma_s, lambda: self._drafted(epoch, started_s))

    def _drafted(self, epoch: int, started_s: float) -> None:
        if epoch != self._epoch or self._control is None:
            return  # aborted: what it built on was contradicted
        self._drafting = False
        position = self._cursor
        point = self.trace[position - PROMPT_LEN]
        self._on_path = self._on_path and point.agrees
        draft = DraftToken(right_token(position) + (not self._on_path), point.probability)
        event = Drafted(position, draft, started_s, self._events.now_s)
        self._control.on_drafted(event)
        self._cursor = max(position + 1, self._chain.frontier)
        if position < self._chain.frontier:
            self._on_path = True  # already committed: the next one builds on the committed token
        elif self._chain.append(position, draft):
            self._carry_out(self._control.decide(event, self._view()))
        self._draft_next()

    # -- as edge_agent/session/session.py ---------------------------------------------------------

    def _reply(self, commit: Commit) -> None:
        num_bytes = _HEADER_BYTES + _TOKEN_BYTES * len(commit.tokens)
        self._link.send(num_bytes, lambda: self._on_commit(commit), up=False)

    def _on_commit(self, commit: Commit) -> None:
        self.num_passes += commit.passes
        outcome = self._chain.apply(commit)
        if self._control is not None:
            if outcome.rejected:
                self._rewind()
            elif not self._drafting and self._cursor < self._chain.frontier:
                self._cursor, self._on_path = self._chain.frontier, True
            received = ReceivedCommit(0, commit, 0, self._events.now_s)
            decision = self._control.on_commit(received, outcome, self._view())
            if outcome.rejected:
                self._control.on_void(self._chain.frontier, 0)
        if commit.finish_reason is not None:
            self.finished_s = self._events.now_s
            self._control, self._epoch = None, self._epoch + 1
        elif self._control is not None:
            self._carry_out(decision)
            self._draft_next()

    def _rewind(self) -> None:
        self._chain.void()
        self._verify_until = 0
        self._epoch += 1
        self._drafting = False
        self._cursor = self._chain.frontier
        self._on_path = True

    def _carry_out(self, decision: Decision) -> None:
        if decision is not Decision.KEEP:
            self._upload(verify=decision is Decision.VERIFY)
        drafted_to = self._chain.frontier + self._chain.num_drafted
        if self._chain.num_drafted and not self._awaiting_commit and drafted_to >= self._limit():
            self._upload(verify=True)

    def _upload(self, *, verify: bool) -> None:
        draft = self._chain.take_unsent(1, verify=verify)
        if draft is None or self._control is None:
            return
        num_bytes = _HEADER_BYTES + self._token_bytes * len(draft.tokens)
        self._link.send(num_bytes, lambda: self._server.receive(self._number, draft), up=True)
        self._control.on_sent(self._events.now_s, draft, num_bytes, awaiting_commit=self._awaiting_commit)
        if verify:
            self._verify_until = self._chain.frontier + self._chain.num_sent

    @property
    def _awaiting_commit(self) -> bool:
        return self._verify_until > self._chain.frontier

    def _view(self) -> ChainView:
        return ChainView(self._chain.num_drafted, self._chain.num_unsent, self._awaiting_commit)

    def _limit(self) -> int:
        assert self._control is not None
        return min(self._chain.frontier + self._control.max_ahead(self._view()), self._end)
