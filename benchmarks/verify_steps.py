"""How long a whole step of a real engine takes that verifies the drafts of several sessions at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from benchmarks.harness.session import next_commit, welcome
from edge_agent.transport import Connector, Transport
from openai_gateway.cli.errors import CliError
from pipesd_vllm.protocol import Commit, Draft, Mode, Open, Sampling

__all__ = ["joint_step_ms", "measure_step_ms"]

PROMPT: Final = tuple(range(100, 132))
"""Any tokens will do: nothing depends on what the target answers."""
_TURN: Final = 1
_WARM_UP_ROUNDS: Final = 3
_LEAST_ROUNDS: Final = 5
_SAME_STEP: Final = 0.05
"""Times of one step, as its sessions report them, are within this share of each other."""


class _Drafting:
    """One session, whose drafts are any tokens: right or wrong, they cost the same."""

    def __init__(self, transport: Transport, num_drafts: int) -> None:
        self._transport = transport
        self._num_drafts = num_drafts
        self._frontier = 0
        self._next_id = 1

    async def open(self, sampling: Sampling) -> None:
        await welcome(self._transport)
        await self._transport.send(Open(_TURN, list(PROMPT), sampling, Mode.OFFLOAD))
        await self.result()

    async def draft(self) -> None:
        tokens = [200 + i for i in range(self._num_drafts)]
        await self._transport.send(Draft(_TURN, self._next_id, self._frontier, 0, tokens))
        self._next_id += self._num_drafts

    async def result(self) -> Commit:
        commit = await next_commit(self._transport, _TURN)
        self._frontier = commit.base + len(commit.tokens)
        return commit


async def measure_step_ms(
    connector: Connector, num_sessions: int, num_drafts: int, temperature: float, num_rounds: int
) -> float:
    """Median time of a step that verifies `num_drafts` drafts of each of `num_sessions` sessions.

    The server must take one request more. Raises `CloudError`; `CliError` where too few steps had all
    sessions in them.
    """
    rounds = num_rounds + _WARM_UP_ROUNDS
    async with AsyncExitStack() as stack:
        sessions: list[_Drafting] = []
        for number in range(num_sessions + 1):
            transport = await connector.connect()
            stack.push_async_callback(transport.close)
            sessions.append(_Drafting(transport, num_drafts))
            most = (num_drafts + 1) * (rounds + 1)
            await sessions[-1].open(Sampling(most, temperature=temperature, seed=number, ignore_eos=True))
        times_ms = [await _round(sessions) for _ in range(rounds)]
    joint = [ms for ms in times_ms[_WARM_UP_ROUNDS:] if ms is not None]
    if len(joint) < min(_LEAST_ROUNDS, num_rounds):
        raise CliError(f"Only {len(joint)} of {num_rounds} steps had all sessions: use a quieter machine.")
    return median(joint)


async def _round(sessions: Sequence[_Drafting]) -> float | None:
    """The first session's step goes ahead, so that the others' drafts are all there when it ends."""
    ahead, *others = sessions
    await ahead.draft()
    await asyncio.gather(*(session.draft() for session in others))
    await ahead.result()
    return joint_step_ms(await asyncio.gather(*(session.result() for session in others)))


def joint_step_ms(commits: Sequence[Commit]) -> float | None:
    """The time of the step that all of `commits` come from; None if they come from several."""
    times_ms = [commit.step_ms for commit in commits]
    longest = max(times_ms)
    alike = min(times_ms) >= (1 - _SAME_STEP) * longest and all(commit.passes == 1 for commit in commits)
    return longest if alike else None
