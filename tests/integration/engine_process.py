"""A program: vLLM's engine core with the real model runner, and texts under all that happens to sessions.

`python -m tests.integration.engine_process VARIANT` prints one JSON object: the texts of plain requests, and
for each scenario those of its requests. A process, because a worker changes the one that it lives in.
"""

from __future__ import annotations

import os

from pipesd_vllm.launch.boot import boot

if __name__ == "__main__":  # not in the process of the tests, which import the names of the scenarios
    os.environ.update(
        PIPESD_SERVE="1", VLLM_PLUGINS="pipesd", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1"
    )
    boot()

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor.abstract import Executor
from vllm.v1.request import Request

from pipesd_vllm import compat
from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.launch.serve import CPU_WORKER, SCHEDULER
from pipesd_vllm.scheduling import AddDrafts, OpenSession, Suspend, pack_command
from pipesd_vllm.worker.cpu_executor import PipeSDCpuExecutor
from tests.pruned_pair import pruned_pair
from tests.tiny_models import tiny_adapter, tiny_eagle

STOCK_WORKER: Final = "benchmarks.harness.stock_worker.StockCpuWorker"
NUM_TOKENS: Final = 24
PROMPTS: Final = [[100 + 7 * i + j for j in range(40 + 9 * i)] for i in range(3)]
HOW: Final[list[dict[str, Any]]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 7},
    {
        "temperature": 0.8,
        "seed": -(2**40),
        "top_p": 0.9,
        "min_p": 0.02,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.1,
        "min_tokens": NUM_TOKENS,
        "logit_bias": {28: -100.0, 300: 2.0},
    },
]
"""One for each of `PROMPTS`."""


class AsyncExecutor(PipeSDCpuExecutor):
    """Switches async scheduling on, which vLLM's CPU platform switches off."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        vllm_config.scheduler_config.async_scheduling = True
        super().__init__(vllm_config, *args, **kwargs)


@dataclass
class Tally:
    """What became of a request."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False


class Engine:
    """vLLM's engine core, stepped by hand."""

    def __init__(
        self,
        speculation: dict[str, object] | None,
        executor: type[Executor],
        with_plugin: bool,
        adapter: LoRARequest | None = None,
    ) -> None:
        """`adapter` is that of all requests."""
        ours = (
            {"scheduler_cls": SCHEDULER, "worker_cls": CPU_WORKER}
            if with_plugin
            else {"worker_cls": STOCK_WORKER}
        )
        arguments = EngineArgs(
            model=str(pruned_pair().target),
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=4,
            max_num_batched_tokens=256,
            block_size=32,
            num_gpu_blocks_override=7,  # one is vLLM's own: the three prompts fit, two of the three texts do
            kv_cache_memory_bytes=1 << 26,
            speculative_config=speculation,
            distributed_executor_backend=executor,
            enable_lora=adapter is not None,
            max_loras=1,
            max_lora_rank=8,
            **ours,
        )
        self._adapter = adapter
        self._core = EngineCore(arguments.create_engine_config(), executor, log_stats=False)
        self.scheduler: Any = self._core.scheduler
        self.passes = self.preemptions = 0
        self._preempt = self.scheduler._preempt_request
        self.scheduler._preempt_request = self._count_preemption
        self.tally: dict[str, Tally] = {}

    def _count_preemption(self, *args: Any, **kwargs: Any) -> None:
        """Counts whoever loses its blocks: parked, suspended or running."""
        self.preemptions += 1
        self._preempt(*args, **kwargs)

    def add(self, name: str, which: int, command: OpenSession | None = None) -> None:
        """Start a request for `PROMPTS[which]`, a session if `command` opens one."""
        self.tally[name] = Tally(list(command.committed) if command else [])
        fields = {"max_tokens": NUM_TOKENS, "ignore_eos": True, **HOW[which]}
        self._submit(name, PROMPTS[which], fields, {} if command is None else pack_command(command))

    def tell(self, name: str, command: AddDrafts | Suspend, tokens: Sequence[int] = (0,)) -> None:
        """A later chunk of the session's input."""
        self._submit(name, tokens, {"max_tokens": 1}, pack_command(command))

    def draft(self, name: str, tokens: Sequence[int]) -> None:
        """Drafts from the session's frontier on."""
        which, done = int(name[-1]), len(self.tally[name].tokens)
        if tokens and not self.tally[name].finished:
            base = len(PROMPTS[which]) + done
            self.tell(name, AddDrafts(base * 50, base, 0, True, None), tokens)

    def _submit(
        self, name: str, tokens: Sequence[int], fields: dict[str, Any], extra_args: dict[str, Any]
    ) -> None:
        params = SamplingParams(
            output_kind=RequestOutputKind.DELTA, detokenize=False, extra_args=extra_args or None, **fields
        )
        params.update_from_generation_config({}, None)
        request = Request(
            request_id=name,
            prompt_token_ids=list(tokens),
            sampling_params=params,
            pooling_params=None,
            resumable=bool(extra_args),
            lora_request=self._adapter,
            block_hasher=self._core.request_block_hasher,
        )
        self.scheduler.add_request(request)

    def step(self) -> None:
        """What the engine's loop does in a turn."""
        outputs, executed = self._core.step_fn()
        self._core.post_step(executed)
        self.passes += executed
        for batch in (outputs or {}).values():
            for output in batch.outputs:
                tally = self.tally[output.request_id]
                tally.tokens += output.new_token_ids
                tally.finished |= output.finish_reason is not None

    def run(self, most: int = 400) -> None:
        """Step until the engine would sleep."""
        while self.scheduler.has_requests() or self._core.batch_queue:
            self.step()
            most -= 1
            assert most, "the engine does not come to rest"

    def take(self) -> list[list[int]]:
        """The texts of all requests so far, which are over."""
        assert all(tally.finished for tally in self.tally.values()), self.tally
        assert not self.scheduler.requests
        assert not getattr(self.scheduler, "_sessions", None)
        texts = [tally.tokens for tally in self.tally.values()]
        self.tally.clear()
        return texts


def plain(engine: Engine) -> None:
    """Requests without sessions, together."""
    for which in range(3):
        engine.add(f"p{which}", which)
    engine.run()


def drafted(
    engine: Engine,
    truth: list[list[int]],
    wrong_every: int = 0,
    suspend: bool = False,
    beside_plain: bool = False,
) -> None:
    """Sessions that wait for their drafts, every n-th of which is wrong."""
    for which in range(3):
        engine.add(f"s{which}", which, OpenSession())
    if beside_plain:
        engine.add("p0", 0)
    engine.run()
    while any(not tally.finished for tally in engine.tally.values()):
        for which in range(3):
            name = f"s{which}"
            if suspend:
                engine.tell(name, Suspend())
            done = len(engine.tally[name].tokens)
            right = truth[which][done : done + 6]
            engine.draft(
                name,
                [t + 1 if wrong_every and not (done + i) % wrong_every else t for i, t in enumerate(right)],
            )
        engine.run()


def eager(engine: Engine, truth: list[list[int]], preempt: bool = False) -> None:
    """Sessions that decode by themselves, with drafts now and then; some lose their blocks in mid-step."""
    for which in range(3):
        engine.add(f"s{which}", which, OpenSession(eager=True))
    for step in range(200):
        if all(tally.finished for tally in engine.tally.values()):
            break
        engine.step()
        for which in range(3):
            name = f"s{which}"
            done = len(engine.tally[name].tokens)
            if done and step % 3 == which:
                engine.draft(name, truth[which][done : done + 9])
            if preempt and step % 5 == which:
                _preempt(engine, name)
    engine.run()


def _preempt(engine: Engine, name: str) -> None:
    """As vLLM does it where blocks run out, whatever of the request is in flight."""
    scheduler = engine.scheduler
    request = scheduler.requests.get(name)
    if request in scheduler.running:
        scheduler.running.remove(request)
        scheduler._preempt_request(request, 0.0)


def silent(engine: Engine, truth: list[list[int]]) -> None:
    """Sessions whose edges never draft, one after the other."""
    for which in range(3):
        engine.add(f"s{which}", which, OpenSession(eager=True))
        engine.run()


def taken_over(engine: Engine, truth: list[list[int]]) -> None:
    """Sessions whose first tokens were committed elsewhere."""
    for which, committed in enumerate((5, 11, 17)):
        engine.add(f"s{which}", which, OpenSession(eager=which == 1, committed=truth[which][:committed]))
    engine.run()
    while any(not tally.finished for tally in engine.tally.values()):
        for which in range(3):
            done = len(engine.tally[f"s{which}"].tokens)
            engine.draft(f"s{which}", truth[which][done : done + 4])
        engine.run()


SCENARIOS: Final[dict[str, Callable[[Engine, list[list[int]]], None]]] = {
    "right drafts": drafted,
    "wrong drafts": lambda engine, truth: drafted(engine, truth, wrong_every=3),
    "beside a plain request": lambda engine, truth: drafted(engine, truth, wrong_every=4, beside_plain=True),
    "suspended": lambda engine, truth: drafted(engine, truth, suspend=True),
    "eager": eager,
    "preempted": lambda engine, truth: eager(engine, truth, preempt=True),
    "taken over": taken_over,
    "silent": silent,
}
_STOCK_NGRAM: Final = {
    key: value
    for key, value in speculative_config(FillIn.NGRAM).items()
    if key in ("method", "prompt_lookup_min", "prompt_lookup_max")
} | {"num_speculative_tokens": 8}
"""As `FillIn.NGRAM` drafts where no edge does, by vLLM alone."""
_VARIANTS: Final[dict[str, tuple[dict[str, object] | None, type[Executor], bool]]] = {
    "stock": (None, PipeSDCpuExecutor, False),
    "stock n-gram": (_STOCK_NGRAM, PipeSDCpuExecutor, False),
    "sync": (speculative_config(FillIn.NONE), PipeSDCpuExecutor, True),
    "async": (speculative_config(FillIn.NONE), AsyncExecutor, True),
    "sync n-gram": (speculative_config(FillIn.NGRAM), PipeSDCpuExecutor, True),
    "async n-gram": (speculative_config(FillIn.NGRAM), AsyncExecutor, True),
}
"""vLLM alone, and the plugin by how steps are scheduled and what fills in for silent edges."""
ADAPTED: Final = " adapted"
"""After a variant's name: all requests have a LoRA adapter."""
EAGLE: Final = " eagle"
"""After a variant's name: the operator's speculator is an EAGLE head."""


def main() -> None:
    """Print the texts of a variant."""
    variant = sys.argv[1]
    adapter: LoRARequest | None = None
    target = pruned_pair().target
    with tempfile.TemporaryDirectory() as folder:
        if variant.endswith(ADAPTED):
            adapter = tiny_adapter(target, Path(folder))
        speculation, executor, with_plugin = _VARIANTS[variant.removesuffix(ADAPTED).removesuffix(EAGLE)]
        if variant.endswith(EAGLE):
            speculation = tiny_eagle(target, Path(folder))
        _tell(Engine(speculation, executor, with_plugin, adapter), with_plugin)
    os._exit(0)  # Triton prints what it leaks at exit, because vLLM froze the collector


def _tell(engine: Engine, with_plugin: bool) -> None:
    for which in range(3):
        engine.add(f"p{which}", which)
        engine.run()
    found: dict[str, Any] = {"alone": engine.take(), "alone passes": engine.passes}
    plain(engine)
    truth = found["plain"] = engine.take()
    if with_plugin:
        assert compat.installed_version()
        for name, scenario in SCENARIOS.items():
            engine.passes = engine.preemptions = 0
            scenario(engine, truth)
            found[name] = engine.take()
            found[f"{name} passes"], found[f"{name} preemptions"] = engine.passes, engine.preemptions
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
