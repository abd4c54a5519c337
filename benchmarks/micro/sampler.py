"""`python -m benchmarks.sampler_cost`: what a verify step costs with the coupled sampler, against vLLM's own.

The step's time is a real engine's, model and all (`verify_steps.py`); the samplers' times are taken in this
process, in turns, on the same made-up logits. What remains of the step without its sampler is the same for
both, so that from the three follows how much longer a step is with ours.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Final

import numpy as np
import torch
import typer

from benchmarks.harness import options
from pipesd_vllm.coupled_batch import Seat
from pipesd_vllm.sampling_rule import SamplingRule

__all__ = ["Cost", "Shape", "main", "sampling_ms"]

_PROMPT_LEN: Final = 200
_SPREAD: Final = 2.5
"""Standard deviation of the logits: about that of a small language model's."""
_LIMITS: Final = {0.0: 1.03, 1.0: 1.10}
_ROUNDS: Final = 30
_WARM_UPS: Final = 3


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
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler

    from benchmarks.micro.sampler_inputs import sampling_metadata, verify_step
    from pipesd_vllm.coupled_sampler import CoupledRejectionSampler

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


def _step_on_a_server(shape: Shape, cloud: str | None, target: str | None, api_key: str | None) -> float:
    """At temperature 0, with the coupled sampler; the server is gone again afterwards."""
    from benchmarks.harness.server import ServerChoice, running_server
    from benchmarks.verify_steps import measure_step_ms
    from edge_agent.agent_parts import cloud_connector

    flags = () if cloud else ("--max-num-seqs", str(shape.num_sessions + 1))
    with running_server(ServerChoice(cloud, target, vllm_flags=flags), {"api_key": api_key}) as server:
        connector = cloud_connector(server.settings)
        return asyncio.run(measure_step_ms(connector, shape.num_sessions, shape.num_drafts, 0.0, _ROUNDS))


def main(
    step_ms: Annotated[
        float | None,
        typer.Option(
            "--step-ms", min=0.0, help="A whole step, known already (T=0, ours).", show_default=False
        ),
    ] = None,
    cloud: options.Cloud = None,
    api_key: Annotated[str | None, typer.Option("--api-key", envvar="PIPESD_API_KEY")] = None,
    target: options.Target = None,
    sessions: Annotated[int, typer.Option("--sessions", min=1)] = 8,
    drafts: Annotated[int, typer.Option("--drafts", min=1)] = 8,
    vocab: Annotated[int, typer.Option("--vocab", min=256)] = 49_152,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 15,
    device: Annotated[
        str, typer.Option("--device", help="cpu or cuda: where both samplers run. cuda needs --step-ms.")
    ] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Default: all cores but one, as vLLM.", show_default=False),
    ] = None,
) -> None:
    """Print for temperatures 0 and 1 the ratio of a whole verify step, ours to vLLM's.

    Starts a server, measures its step, stops it, and times both samplers. Keep the machine quiet.
    """
    from benchmarks.micro.sampler_inputs import prepare_cpu_kernels

    if device != "cpu" and step_ms is None:
        raise typer.BadParameter("A step's time is measured on the CPU only: give --step-ms.")
    shape = Shape(sessions, drafts, vocab)
    whole_ms = _step_on_a_server(shape, cloud, target, api_key) if step_ms is None else step_ms
    if device == "cpu":
        prepare_cpu_kernels()
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) - 1))
    torch.manual_seed(0)
    rest_ms = 0.0
    for temperature in _LIMITS:
        stock_ms, coupled_ms = sampling_ms(shape, temperature, repeats, device)
        if temperature == 0:
            rest_ms = max(0.0, whole_ms - coupled_ms)
        typer.echo(str(Cost(temperature, stock_ms, coupled_ms, rest_ms)))


if __name__ == "__main__":
    typer.run(main)
