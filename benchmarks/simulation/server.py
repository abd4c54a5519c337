"""The server in the model: the plugin's own session logic, steps in batches, passes that take time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.events import Events
from pipesd_vllm.scheduling import EngineSession
from pipesd_vllm.wire import Commit, Draft, Mode

__all__ = ["SimulatedServer", "right_token"]

_MAX_VERIFIED = 16
Reply = Callable[[Commit], None]


def right_token(position: int) -> int:
    """The target's choice; an odd number is a wrong one."""
    return 2 * position


@dataclass(slots=True)
class _Turn:
    session: EngineSession
    end: int
    mode: Mode
    patience_s: float
    reply: Reply
    started: bool = False
    num_alive: int = field(default=0)
    """Signs of life of the edge; a timer that was set before the last one does nothing."""


class SimulatedServer:
    """One engine for all turns: a step takes everybody who wants a pass and fits in."""

    def __init__(self, events: Events, costs: Costs) -> None:
        self._events = events
        self._costs = costs
        self._turns: dict[int, _Turn] = {}
        self._ready: dict[int, None] = {}
        self._busy = False
        self.busy_s = 0.0

    def open(
        self, number: int, prompt_len: int, num_tokens: int, mode: Mode, patience_s: float, reply: Reply
    ) -> None:
        """A turn begins with its first pass, drafts or not."""
        session = EngineSession(prompt_len, mode is Mode.LATENCY, self._events.now_s)
        self._turns[number] = _Turn(session, prompt_len + num_tokens, mode, patience_s, reply)
        self._ready[number] = None
        self._step()

    def receive(self, number: int, draft: Draft) -> None:
        """A frame of drafts has arrived; nothing, for a turn that has ended."""
        turn = self._turns.get(number)
        if turn is None:
            return
        turn.session.trie.add(draft.first, draft.base, draft.anchor, draft.tokens, draft.parents)
        if draft.verify:
            turn.session.release(self._events.now_s)
            self._wait(number, turn)
        self._note(number, turn)
        self._step()

    def _note(self, number: int, turn: _Turn) -> None:
        if not turn.started or turn.session.wants_pass():
            self._ready[number] = None

    def _wait(self, number: int, turn: _Turn) -> None:
        turn.num_alive += 1
        if turn.mode is not Mode.BALANCED:
            return
        num_alive, frontier = turn.num_alive, turn.session.frontier

        def lose_patience() -> None:
            if turn.num_alive == num_alive and number in self._turns:
                turn.session.decode_alone(frontier)
                self._note(number, turn)
                self._step()

        self._events.after(turn.patience_s, lose_patience)

    def _step(self) -> None:
        if self._busy or not self._ready:
            return
        batch = list(self._ready)[: self._costs.max_seqs]
        num_tokens, extra_s = 0, 0.0
        staged: list[tuple[int, list[int]]] = []
        for number in batch:
            del self._ready[number]
            turn = self._turns[number]
            room = turn.end - turn.session.frontier - 1
            drafts = turn.session.stage(min(_MAX_VERIFIED, room)) if turn.started else []
            extra_s += 0.0 if turn.started else self._costs.prefill_s
            turn.session.start_pass(len(drafts), self._events.now_s)
            num_tokens += 1 + len(drafts)
            staged.append((number, drafts))
        self._busy = True
        duration_s = self._costs.pass_s(num_tokens) + extra_s
        self.busy_s += duration_s
        self._events.after(duration_s, lambda: self._finish(staged))

    def _finish(self, staged: list[tuple[int, list[int]]]) -> None:
        self._busy = False
        for number, drafts in staged:
            self._commit(number, self._turns[number], drafts)
        self._step()

    def _commit(self, number: int, turn: _Turn, drafts: list[int]) -> None:
        session = turn.session
        base = session.frontier
        num_right = 0
        while num_right < len(drafts) and drafts[num_right] == right_token(base + num_right):
            num_right += 1
        new = [right_token(base + i) for i in range(num_right + 1)][: turn.end - base]
        turn.started = True
        session.finish_pass(new, self._events.now_s)
        is_last = session.frontier >= turn.end
        report = session.report
        turn.reply(
            Commit(
                *(1, base, new),
                drafted=len(drafts),
                accepted=num_right,
                queue_ms=report.queue_ms,
                step_ms=report.step_ms,
                finish_reason="length" if is_last else None,
            )
        )
        self._ready.pop(number, None)  # what came meanwhile may be void now
        if is_last:
            del self._turns[number]
        else:
            self._wait(number, turn)
            self._note(number, turn)
