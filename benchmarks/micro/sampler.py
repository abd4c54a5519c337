"""What a verify step costs with the coupled sampler, against vLLM's own.

The step's time is a real engine's, model and all; the samplers' times are taken in this process, in turns, on
the same made-up logits. What remains of the step without its sampler is the same for both, so that from the
three follows how much longer a step is with ours.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import torch
from pipesd_vllm.worker.coupled_batch import Seat
from pipesd_vllm.worker.sampling_rule import SamplingRule

from benchmarks.harness.options import Flags
from benchmarks.harness.server import running_server
from benchmarks.harness.session import next_commit, opened, welcome
from edge_agent.agent import cloud_connector
from edge_agent.verifier.transport import Connector, Transport
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Commit, Draft, Mode, Open, Sampling

__all__ = ["Cost", "Shape", "joint_step_ms", "measure", "measure_step_ms", "sampling_ms"]

_PROMPT_LEN: Final = 200
_SPREAD: Final = 2.5
"""Standard deviation of the logits: about that of a small language model's."""
_LIMITS: Final = {0.0: 1.03, 1.0: 1.10}
_ROUNDS: Final = 30
_WARM_UPS: Final = 3
_PROMPT: Final = tuple(range(100, 132))
"""Any tokens will do: nothing depends on what the target answers."""
_WARM_UP_ROUNDS: Final = 3
_LEAST_ROUNDS: Final = 5
_SAME_STEP: Final = 0.05
"""Times of one step, as its sessions report them, are within this share of each other."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A verify step: `num_drafts` drafts of each of `num_sessions` sessions."""

    num_sessions: int
    num_drafts: int
    vocab_size: int

    @property
    def num_rows(self) -> int:
        return self.num_sessions * (self.num_drafts + 1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Times of one temperature. `rest_ms` is the step without its sampler."""

    temperature: float
    stock_ms: float
    coupled_ms: float
    rest_ms: float

    @property
    def ratio(self) -> float:
        """A step with the coupled sampler over one with vLLM's."""
        return (self.rest_ms + self.coupled_ms) / (self.rest_ms + self.stock_ms)

    def __str__(self) -> str:
        limit = _LIMITS.get(self.temperature)
        aim = "" if limit is None else f" (limit {limit:.2f}: {'met' if self.ratio <= limit else 'MISSED'})"
        step = f"step {self.rest_ms + self.coupled_ms:.1f} ms, of which sampling {self.coupled_ms:.1f} ms"
        return f"T={self.temperature:g}: ratio {self.ratio:.3f}{aim}; {step}, vLLM's {self.stock_ms:.1f} ms"


class _Sessions:
    """A batch of sessions that all have the same rule but their own seeds."""

    def __init__(self, num_sessions: int, temperature: float) -> None:
        tokens = np.zeros(_PROMPT_LEN, np.int32)
        rules = [SamplingRule(seed=seed, temperature=temperature) for seed in range(num_sessions)]
        self._seats = [Seat(index, rule, tokens, _PROMPT_LEN) for index, rule in enumerate(rules)]

    def seats(self) -> list[Seat]:
        return self._seats


def sampling_ms(shape: Shape, temperature: float, repeats: int, device: str = "cpu") -> tuple[float, float]:
    """Median times of one step's sampling in milliseconds: vLLM's `RejectionSampler`, and ours.

    The two take turns, so that whatever else the machine does slows both.
    """
    from pipesd_vllm.worker.coupled_sampler import CoupledRejectionSampler
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler

    from benchmarks.micro.sampler_inputs import sampling_metadata, verify_step

    num = shape.num_sessions
    logits = torch.randn(shape.num_rows, shape.vocab_size, device=device) * _SPREAD
    stock = RejectionSampler(Sampler(), device=logits.device)
    coupled = CoupledRejectionSampler(stock, _Sessions(num, temperature), None, logits.device)
    step = verify_step(torch.randint(shape.vocab_size, (num, shape.num_drafts)).tolist(), device)
    generators = {index: torch.Generator(device).manual_seed(index) for index in range(num)}
    parameters = sampling_metadata(num, temperature, device, generators=generators)
    greedy = sampling_metadata(num, device=device)  # which is what vLLM takes sessions for (turn_params.py)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + _WARM_UPS):
        times[0].append(_timed_ms(lambda own: stock(step, None, own, parameters), logits.clone()))
        times[1].append(_timed_ms(lambda own: coupled(step, None, own, greedy), logits.clone()))
    return median(times[0][_WARM_UPS:]), median(times[1][_WARM_UPS:])


def _timed_ms(sample: Callable[[torch.Tensor], object], logits: torch.Tensor) -> float:
    if logits.is_cuda:
        torch.cuda.synchronize()
    started_s = time.perf_counter()
    sample(logits)
    if logits.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started_s) * 1e3


def measure(
    shape: Shape, flags: Flags, step_ms: float | None, repeats: int, device: str, threads: int | None
) -> Iterator[Cost]:
    """The cost at each temperature. `step_ms`: a whole step's at temperature 0; None: ask a server."""
    from benchmarks.micro.sampler_inputs import prepare_cpu_kernels

    whole_ms = _step_on_a_server(shape, flags) if step_ms is None else step_ms
    if device == "cpu":
        prepare_cpu_kernels()
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) - 1))
    torch.manual_seed(0)
    rest_ms = 0.0
    for temperature in _LIMITS:
        stock_ms, coupled_ms = sampling_ms(shape, temperature, repeats, device)
        if temperature == 0:
            rest_ms = max(0.0, whole_ms - coupled_ms)
        yield Cost(temperature, stock_ms, coupled_ms, rest_ms)


def _step_on_a_server(shape: Shape, flags: Flags) -> float:
    """At temperature 0, with the coupled sampler; the server is gone again afterwards."""
    with running_server(flags, ("--max-num-seqs", str(shape.num_sessions + 1))) as server:
        connector = cloud_connector(server.settings)
        return asyncio.run(measure_step_ms(connector, shape.num_sessions, shape.num_drafts, 0.0, _ROUNDS))


class _Drafting:
    """One session, whose drafts are any tokens: right or wrong, they cost the same."""

    def __init__(self, transport: Transport, num_drafts: int) -> None:
        self._transport = transport
        self._num_drafts = num_drafts
        self._frontier = 0
        self._next_id = 1

    async def open(self, sampling: Sampling) -> None:
        await welcome(self._transport)
        await self._transport.send(Open(1, list(_PROMPT), sampling, Mode.OFFLOAD))
        await self.result()

    async def draft(self) -> None:
        tokens = [200 + i for i in range(self._num_drafts)]
        await self._transport.send(Draft(1, self._next_id, self._frontier, 0, tokens))
        self._next_id += self._num_drafts

    async def result(self) -> Commit:
        commit = await next_commit(self._transport)
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
            transport = await stack.enter_async_context(opened(connector))
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
