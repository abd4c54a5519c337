"""Verify rounds and streamed tokens of a session: the edge's wait beyond the engine's step.

Speaks the session protocol over a bare connection, so that nothing of the edge agent is in the figure.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.session import next_commit, welcome
from edge_agent.transport import Transport
from pipesd_vllm.protocol import Cancel, Draft, Mode, Open, Sampling, Welcome

__all__ = ["PROMPT", "Clock", "Round", "measured_rounds", "measured_stream", "open_idle_turn"]

PROMPT: Final = tuple(range(100, 132))
"""Any tokens will do: nothing depends on what the target answers."""
DRAFT: Final = (100, 101, 102, 103)
_TOKENS_A_ROUND: Final = len(DRAFT) + 1  # at most, if the target agrees with all of it
_SPARE_TOKENS: Final = 2  # the first token comes before the first round; the turn must not end in the last
_ROUNDS_PER_TURN: Final = 100
_WARM_UP_ROUNDS: Final = 5

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Round:
    """From sending a draft frame to its commit, and the engine's step within, in ms.

    Of a stream: from one commit to the next.
    """

    wall_ms: float
    step_ms: float
    queue_ms: float = 0.0
    """From the drafts' arrival in the scheduler to the start of the step; outside `step_ms`."""

    @property
    def added_ms(self) -> float:
        """Network, vLLM's front end and the plugin."""
        return self.wall_ms - self.step_ms


async def measured_rounds(
    transport: Transport, num_rounds: int, clock: Clock = time.perf_counter
) -> AsyncIterator[Round]:
    """`num_rounds` verify rounds of four draft tokens each, one at a time, after a warm-up.

    Raises `CloudError`.
    """
    most = _rounds_a_turn(await welcome(transport))
    num_done, turn = 0, 0
    while num_done < num_rounds:
        turn += 1
        num_warm, num_here = _WARM_UP_ROUNDS, min(most, num_rounds - num_done)
        async for measured in _turn(transport, turn, num_warm + num_here, clock):
            if num_warm:
                num_warm -= 1
            else:
                yield measured
        num_done += num_here


async def measured_stream(
    transport: Transport, num_tokens: int, clock: Clock = time.perf_counter
) -> AsyncIterator[Round]:
    """`num_tokens` tokens that the target decodes and streams by itself, one a pass, after a warm-up.

    Raises `CloudError`.
    """
    await welcome(transport)
    num_all = num_tokens + _WARM_UP_ROUNDS
    sampling = Sampling(max_tokens=num_all + _SPARE_TOKENS, ignore_eos=True)
    await transport.send(Open(1, list(PROMPT), sampling, Mode.LATENCY))
    await next_commit(transport, turn=1)
    before_s = clock()
    for number in range(num_all):
        commit = await next_commit(transport, turn=1)
        now_s = clock()
        if number >= _WARM_UP_ROUNDS:
            yield Round((now_s - before_s) * 1e3, commit.step_ms, commit.queue_ms)
        before_s = now_s
    await transport.send(Cancel(1))


async def open_idle_turn(transport: Transport) -> None:
    """Open a turn that waits for drafts which never come, and see its first token. Raises `CloudError`."""
    await welcome(transport)
    await transport.send(_open(1, num_rounds=1))
    await next_commit(transport, turn=1)


async def _turn(transport: Transport, turn: int, num_rounds: int, clock: Clock) -> AsyncIterator[Round]:
    await transport.send(_open(turn, num_rounds))
    commit = await next_commit(transport, turn)
    first = 1
    for _ in range(num_rounds):
        base = commit.base + len(commit.tokens)
        started_s = clock()
        await transport.send(Draft(turn, first, base, 0, list(DRAFT)))
        commit = await next_commit(transport, turn)
        yield Round((clock() - started_s) * 1e3, commit.step_ms, commit.queue_ms)
        first += len(DRAFT)
    await transport.send(Cancel(turn))


def _open(turn: int, num_rounds: int) -> Open:
    sampling = Sampling(max_tokens=_TOKENS_A_ROUND * num_rounds + _SPARE_TOKENS, ignore_eos=True)
    return Open(turn, list(PROMPT), sampling, Mode.OFFLOAD)


def _rounds_a_turn(greeting: Welcome) -> int:
    """How many rounds the context is sure to hold, the warm-up left out; at least one."""
    room = greeting.max_model_len - len(PROMPT) - _SPARE_TOKENS
    return min(_ROUNDS_PER_TURN, max(1, room // _TOKENS_A_ROUND - _WARM_UP_ROUNDS))
