"""One session under random drafts, rebuilt in the middle on a fresh connection."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.harness.session import next_commit, welcome
from benchmarks.exactness.drafts import KINDS, DraftMaker
from edge_agent.errors import CloudMisbehaved
from edge_agent.generation import SamplingSettings
from edge_agent.transport import Connector, Transport
from edge_agent.wire_sampling import wire_sampling
from pipesd_vllm.protocol import Commit, Mode, Open

__all__ = ["Run", "run_session"]

TURN: Final = 1
_MODES: Final = (Mode.OFFLOAD, Mode.OFFLOAD, Mode.BALANCED, Mode.LATENCY)
_PATIENCE_MS: Final = 50
_MOST_DRAFTS: Final = 12
_VERIFIABLE: Final = ("right", "right", "half", "wrong")
"""What ends each round: the server has something to check, whatever it made of the frames before."""


@dataclass(slots=True)
class Run:
    """What the server committed, in order, and what its passes did until then."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    rebuilt: bool = False


async def run_session(
    connector: Connector,
    prompt: Sequence[int],
    sampling: SamplingSettings,
    truth: Sequence[int],
    rng: random.Random,
) -> Run:
    """A whole turn. `truth` is what right drafts are taken from; `rng` decides all else.

    Raises `CloudError`, also for a stream that has a gap or stands still.
    """
    run = Run()
    await _connected(connector, prompt, sampling, truth, rng, run, rng.randint(1, sampling.max_tokens // 2))
    if not run.finished:
        run.rebuilt = True
        await _connected(connector, prompt, sampling, truth, rng, run, sampling.max_tokens)
    return run


async def _connected(
    connector: Connector,
    prompt: Sequence[int],
    sampling: SamplingSettings,
    truth: Sequence[int],
    rng: random.Random,
    run: Run,
    until: int,
) -> None:
    """Go on with `run`, on a connection of its own, until it has `until` tokens."""
    transport = await connector.connect()
    try:
        await welcome(transport)
        mode, wire = rng.choice(_MODES), wire_sampling(sampling)
        await transport.send(Open(TURN, list(prompt), wire, mode, _PATIENCE_MS, list(run.tokens)))
        drafts = DraftMaker(TURN, len(prompt), truth)
        while not run.finished and len(run.tokens) < until:
            _follow(run, await next_commit(transport, TURN), len(prompt))
            if not run.finished:
                await _draft(transport, drafts, rng, len(run.tokens))
    finally:
        await transport.close()


async def _draft(transport: Transport, drafts: DraftMaker, rng: random.Random, done: int) -> None:
    """Up to two batches of any kind, then one that can be verified."""
    for kind in rng.choices(KINDS, k=rng.choice((0, 0, 1, 2))):
        for frame in drafts.frames(kind, rng.randint(1, _MOST_DRAFTS), done, verify=rng.random() < 0.5):
            await transport.send(frame)
    for frame in drafts.frames(rng.choice(_VERIFIABLE), rng.randint(2, _MOST_DRAFTS), done):
        await transport.send(frame)


def _follow(run: Run, commit: Commit, prompt_length: int) -> None:
    if commit.base != prompt_length + len(run.tokens):
        expected = prompt_length + len(run.tokens)
        raise CloudMisbehaved(f"a commit starts at position {commit.base}, not at {expected}")
    run.tokens += commit.tokens
    run.passes += commit.passes
    run.drafted += commit.drafted
    run.accepted += commit.accepted
    run.finished = commit.finish_reason is not None
