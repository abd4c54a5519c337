"""What the plugin's scheduler hooks take of a step, by the number of parked sessions.

vLLM's real scheduler with ours on top; the model is a function that agrees with every draft. Parked sessions
keep their KV blocks and seats, which is where a hook could find them in its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final, NamedTuple

import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.launch import ensure_embedded_target
from pipesd_vllm.scheduling import AddDrafts, Command, OpenSession, pack_command
from pipesd_vllm.scheduling.scheduler import PipeSDScheduler
from pipesd_vllm.scheduling.stopwatch import Stopwatch

__all__ = ["NUM_ACTIVE", "HookCost", "hook_costs"]

NUM_ACTIVE: Final = 8
"""Sessions with drafts in every step, and as many plain requests beside them."""
_BLOCK_SIZE: Final = 16
_PROMPT: Final = tuple(range(100, 116))
_DRAFT: Final = (7, 7)
_TOKEN: Final = 7
_MAX_MODEL_LEN: Final = 512
_WARM_UP_STEPS: Final = 20


class HookCost(NamedTuple):
    """Medians over steps, in us."""

    num_parked: int
    hooks_us: float
    """In the plugin's hooks, the commands that came before the step included."""
    step_us: float
    """In `schedule` and `update_from_output`, vLLM's own work included."""


class _Total(Stopwatch):
    """Keeps the whole time beside what `take` hands out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._now = clock
        self._entered_s = self.total_s = 0.0

    def __enter__(self) -> None:
        super().__enter__()
        self._entered_s = self._now()

    def __exit__(self, *error: object) -> None:
        self.total_s += self._now() - self._entered_s
        super().__exit__(*error)


class _Engine:
    """The scheduler, and the requests' generated tokens by number."""

    def __init__(self, num_seats: int, clock: Callable[[], float]) -> None:
        config = EngineArgs(
            model=str(ensure_embedded_target()),
            max_model_len=_MAX_MODEL_LEN,
            max_num_seqs=num_seats,
            max_num_batched_tokens=max(8192, num_seats),
            block_size=_BLOCK_SIZE,
            enable_prefix_caching=False,
            async_scheduling=False,
            speculative_config=speculative_config(FillIn.NONE),
        ).create_engine_config()
        num_blocks = 2 * num_seats + 4 * NUM_ACTIVE * _MAX_MODEL_LEN // _BLOCK_SIZE
        config.cache_config.num_gpu_blocks = num_blocks
        spec = FullAttentionSpec(block_size=_BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
        self.scheduler: Any = PipeSDScheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(num_blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=_BLOCK_SIZE,
            log_stats=False,
        )
        self.hooks = self.scheduler._overhead = _Total(clock)
        self.generated: dict[str, int] = {}
        self._clock = clock

    def add(self, name: str, command: Command | None, tokens: tuple[int, ...] = _PROMPT) -> None:
        """A request, one that opens a session, or a later chunk with a command."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=_MAX_MODEL_LEN - len(_PROMPT) - 1,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
            extra_args=None if command is None else pack_command(command),
        )
        request = Request(name, list(tokens), params, None, resumable=command is not None)
        self.generated.setdefault(name, 0)
        self.scheduler.add_request(request)

    def step(self) -> float:
        """One step; seconds in the scheduler."""
        started_s = self._clock()
        output = self.scheduler.schedule()
        scheduled_s = self._clock() - started_s
        drafts = output.scheduled_spec_decode_tokens
        names = list(output.num_scheduled_tokens)
        sampled = [[*drafts.get(name, ()), _TOKEN] for name in names]
        result = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, sampled)
        for name, tokens in zip(names, sampled, strict=True):
            self.generated[name] += len(tokens)
        started_s = self._clock()
        self.scheduler.update_from_output(output, result)
        return scheduled_s + self._clock() - started_s


def hook_costs(
    parked: tuple[int, ...], num_steps: int = 100, clock: Callable[[], float] = time.perf_counter
) -> Iterator[HookCost]:
    """One for each number of `parked` sessions. Raises `RuntimeError` if some are not parked."""
    for number in parked:
        yield _hook_cost(number, num_steps, clock)


def _hook_cost(num_parked: int, num_steps: int, clock: Callable[[], float]) -> HookCost:
    engine = _Engine(num_parked + 2 * NUM_ACTIVE, clock)
    for place in range(num_parked):
        engine.add(f"parked-{place}", OpenSession(eager=False))
    while engine.scheduler.has_requests():
        engine.step()
    if len(engine.scheduler._sessions.resident) != num_parked:
        raise RuntimeError("not all sessions are parked with their KV blocks")
    for place in range(NUM_ACTIVE):
        engine.add(f"active-{place}", OpenSession(eager=False))
        engine.add(f"plain-{place}", None)
    engine.step()
    hooks_us, steps_us = [], []
    for step in range(_WARM_UP_STEPS + num_steps):
        before_s = engine.hooks.total_s
        for place in range(NUM_ACTIVE):
            name = f"active-{place}"
            base = len(_PROMPT) + engine.generated[name]
            first = 1 + step * len(_DRAFT)
            engine.add(name, AddDrafts(first, base, 0, True, None), _DRAFT)
        step_s = engine.step()
        if step >= _WARM_UP_STEPS:
            hooks_us.append((engine.hooks.total_s - before_s) * 1e6)
            steps_us.append(step_s * 1e6)
    return HookCost(num_parked, median(hooks_us), median(steps_us))
