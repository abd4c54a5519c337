"""vLLM's engine on virtual time: the real `AsyncLLM` over a simulated engine process.

Real: `AsyncLLM.generate` with its input and output processors, requests, the scheduler (ours over vLLM's),
KV blocks, prefix cache, grammars. Simulated: the IPC between API server and engine (in order, `ipc_s` each
way), the engine process' loop, and the model (`runner.py`), whose steps take what `StepCost` says.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ["VLLM_REGEX_COMPILATION_TIMEOUT_S"] = "0"  # with a limit vLLM compiles in a thread

from pipesd_vllm.launch.boot import boot

boot()  # before anything imports vLLM, as `pipesd serve` does it

# ruff: noqa: E402

import torch
from vllm.config import StructuredOutputsConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from benchmarks.sim import models
from benchmarks.sim.log import EventLog
from benchmarks.sim.models import KnownTarget
from benchmarks.sim.plan import ServerPlan
from benchmarks.sim.runner import ModelRunner
from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.scheduling.scheduler import AsyncPipeSDScheduler, PipeSDScheduler

__all__ = [
    "BLOCK_SIZE",
    "MAX_MODEL_LEN",
    "EngineProcess",
    "EngineRecord",
    "EngineRequest",
    "InlineExecutor",
    "SimEngine",
    "engine_config",
]

BLOCK_SIZE: Final = 16
MAX_MODEL_LEN: Final = 2048
_EMPTY_STEP_S: Final = 0.0005
"""A step in which nothing could be scheduled: the engine's loop asks again."""


# -- configuration ------------------------------------------------------------------------


@cache
def _model_folder() -> Path:
    """A folder with a configuration and a tokenizer, gone with the process."""
    folder = Path(tempfile.mkdtemp(prefix="pipesd-sim-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in models.target_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@cache
def engine_config(max_num_seqs: int, max_draft: int, folder: Path | None = None) -> VllmConfig:
    """vLLM's own configuration of the simulated target, or of the model in `folder`; not to be changed."""
    arguments = EngineArgs(
        model=str(folder or _model_folder()),
        max_model_len=None if folder else MAX_MODEL_LEN,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(512, max_num_seqs * (1 + max_draft)),
        block_size=BLOCK_SIZE,
        speculative_config={**speculative_config(FillIn.NONE), "num_speculative_tokens": max_draft},
        # "auto" takes the backend of the first request for all that follow, here those of later runs, too.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar"),
    )
    return arguments.create_engine_config()


class InlineExecutor(Executor):
    """Calls at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@cache
def _structured_outputs(
    max_num_seqs: int, max_draft: int, folder: Path | None = None
) -> StructuredOutputManager:
    """Keeps compiled grammars alone, so that all runs share it."""
    manager = StructuredOutputManager(engine_config(max_num_seqs, max_draft, folder))
    manager.executor.shutdown()
    manager.executor = InlineExecutor()
    return manager


@cache
def _renderer(max_num_seqs: int, max_draft: int, folder: Path | None = None) -> Any:
    return renderer_from_config(engine_config(max_num_seqs, max_draft, folder))


@cache
def _block_hasher() -> Any:
    init_none_hash(sha256)
    return get_request_block_hasher(BLOCK_SIZE, sha256)


def _make_scheduler(plan: ServerPlan, clock: Callable[[], float], folder: Path | None) -> Any:
    """The scheduler that `make_scheduler` gives a server of this kind, on another clock."""
    config = engine_config(plan.max_num_seqs, plan.max_draft, folder)
    config.cache_config.num_gpu_blocks = plan.num_blocks
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kind = AsyncPipeSDScheduler if plan.async_scheduling else PipeSDScheduler
    own = {"clock": staticmethod(clock), "has_budget": plan.budget}
    clocked = type("ClockedScheduler", (kind,), own)
    return clocked(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=plan.num_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=_structured_outputs(plan.max_num_seqs, plan.max_draft, folder),
        block_size=BLOCK_SIZE,
        log_stats=False,
    )


# -- the engine's process -----------------------------------------------------------------


@dataclass(slots=True)
class EngineRequest:
    """One request that the engine took, for the record."""

    prompt: tuple[int, ...]
    """Tokens committed before (a session taken over) among them."""
    target: str
    at_s: float
    passes: int = 0
    """Steps in which it got tokens."""


@dataclass(slots=True)
class _Step:
    output: SchedulerOutput
    ends_s: float


@dataclass(slots=True)
class EngineRecord:
    """What an engine did."""

    requests: dict[str, EngineRequest] = field(default_factory=dict)
    steps: int = 0
    empty_steps: int = 0
    passes: int = 0
    preemptions: int = 0


class EngineProcess:
    """vLLM's `EngineCoreProc`: its input queue and its loop. `send` takes outputs to the client."""

    def __init__(
        self,
        plan: ServerPlan,
        target: KnownTarget,
        log: EventLog,
        send: Callable[[EngineCoreOutputs], None],
        folder: Path | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._cost = plan.step
        self._target = target.name
        self._log = log
        self._send = send
        self.scheduler = _make_scheduler(plan, self._loop.time, folder)
        self._runner = ModelRunner(target, plan.num_blocks, BLOCK_SIZE, plan.max_num_seqs)
        self._most_steps = 2 if plan.async_scheduling else 1
        self._steps: deque[_Step] = deque()
        self._inbox: list[tuple[str, Any]] = []
        self._wake = asyncio.Event()
        self.stalls: list[tuple[float, float]] = []
        """Start and end of times in which no step ends."""
        self.record = EngineRecord()
        self.task = asyncio.create_task(self._run())

    def post(self, kind: str, what: Any = None) -> None:
        """A message that arrived: "add" (`EngineCoreRequest`), "abort" (ids) or "abort_all"."""
        self._inbox.append((kind, what))
        self._wake.set()

    def stop(self) -> None:
        """The process ends."""
        self.task.cancel()

    @property
    def num_used_blocks(self) -> int:
        """KV blocks that requests hold; cached blocks that nobody holds are free."""
        pool = self.scheduler.kv_cache_manager.block_pool
        used: int = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()  # one is vLLM's null block
        return used

    async def _run(self) -> None:
        """`run_busy_loop`: with async scheduling a step is scheduled while the one before still runs."""
        while True:
            self._take_messages()
            if not self.scheduler.has_requests() and not self._steps:
                self._wake.clear()
                await self._wake.wait()
                continue
            has_begun = self.scheduler.has_requests() and self._schedule()
            if has_begun and len(self._steps) < self._most_steps:
                await asyncio.sleep(0)
                continue
            await self._finish(self._steps.popleft())

    def _schedule(self) -> bool:
        """Schedule a step; whether it computes anything."""
        output = self.scheduler.schedule()
        begins_s = max([self._loop.time(), *(step.ends_s for step in self._steps)])
        self._steps.append(_Step(output, begins_s + self._cost_s(output, begins_s)))
        return bool(output.total_num_scheduled_tokens)

    def _cost_s(self, output: SchedulerOutput, begins_s: float) -> float:
        num_tokens = output.total_num_scheduled_tokens
        cost_s = _EMPTY_STEP_S
        if num_tokens:
            context = _context(output) if self._cost.context_s else 0
            cost_s = self._cost.seconds(num_tokens, context, len(output.num_scheduled_tokens))
        stalled_s = (end_s - begins_s for start_s, end_s in self.stalls if start_s <= begins_s < end_s)
        return cost_s + max(stalled_s, default=0.0)

    async def _finish(self, step: _Step) -> None:
        output, record = step.output, self.record
        await asyncio.sleep(max(0.0, step.ends_s - self._loop.time()))
        grammar = self.scheduler.get_grammar_bitmask(output)
        result = self._runner.execute(output, grammar)
        record.preemptions += len(output.preempted_req_ids or ())
        for request_id, tokens in zip(result.req_ids, result.sampled_token_ids, strict=True):
            record.passes += bool(tokens)
            record.requests[request_id].passes += bool(tokens)
        self._take_aborts()
        for outputs in self.scheduler.update_from_output(output, result).values():
            self._send(outputs)
        num_tokens = output.total_num_scheduled_tokens
        record.steps += num_tokens > 0
        record.empty_steps += num_tokens == 0
        self._log("step", self._target, num_tokens, sum(map(len, result.sampled_token_ids)))

    # -- messages -------------------------------------------------------------------------

    def _take_messages(self) -> None:
        taken, self._inbox = self._inbox, []
        for kind, what in taken:
            if kind == "add":
                self._add(what)
            elif kind == "abort":
                self._abort(what)
            else:
                self._abort_all()

    def _take_aborts(self) -> None:
        """As `EngineCore._process_aborts_queue`: aborts overtake in mid-step, and come again in order."""
        for kind, what in self._inbox:
            if kind == "abort":
                self._abort(what)

    def _add(self, message: EngineCoreRequest) -> None:
        request = Request.from_engine_core_request(message, _block_hasher())
        if request.use_structured_output:
            self.scheduler.structured_output_manager.grammar_init(request)
        self.scheduler.add_request(request)
        if message.request_id not in self.record.requests:
            begun = tuple(request.all_token_ids)
            self.record.requests[message.request_id] = EngineRequest(begun, self._target, self._loop.time())

    def _abort(self, request_ids: Iterable[str]) -> None:
        self.scheduler.finish_requests(list(request_ids), RequestStatus.FINISHED_ABORTED)

    def _abort_all(self) -> None:
        ended = self.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
        outputs = [EngineCoreOutput(r.request_id, [], finish_reason=FinishReason.ABORT) for r in ended]
        if outputs:
            self._send(EngineCoreOutputs(outputs=outputs))


def _context(output: SchedulerOutput) -> int:
    """KV entries that the step's requests read, what they compute themselves among them."""
    cached = output.scheduled_cached_reqs
    before = sum(new.num_computed_tokens for new in output.scheduled_new_reqs)
    context: int = before + sum(cached.num_computed_tokens) + output.total_num_scheduled_tokens
    return context


# -- the API server's side ----------------------------------------------------------------


class _Ipc:
    """vLLM's `AsyncMPClient` for an `EngineProcess`: messages keep their order and take `ipc_s` each way."""

    def __init__(self, plan: ServerPlan, target: KnownTarget, log: EventLog, folder: Path | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._ipc_s = plan.ipc_s
        self._outputs: asyncio.Queue[EngineCoreOutputs | Exception] = asyncio.Queue()
        self.resources = SimpleNamespace(engine_dead=False)
        self.process = EngineProcess(plan, target, log, self._send_back, folder)
        self.process.task.add_done_callback(self._on_end)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self._post("add", request)

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        if request_ids and not self.resources.engine_dead:
            self._post("abort", request_ids)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def get_output_async(self) -> EngineCoreOutputs:
        outputs = await self._outputs.get()
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    def abort_all(self) -> None:
        self._post("abort_all", None)

    def die(self) -> None:
        """The process is gone, and the client notices at once."""
        self.resources.engine_dead = True
        self.process.stop()
        self._outputs.put_nowait(EngineDeadError())

    def shutdown(self, timeout: float | None = None) -> None:
        self.process.stop()

    def _post(self, kind: str, what: Any) -> None:
        if self.resources.engine_dead:
            raise EngineDeadError()
        self._loop.call_later(self._ipc_s, self.process.post, kind, what)

    def _send_back(self, outputs: EngineCoreOutputs) -> None:
        self._loop.call_later(self._ipc_s, self._receive, outputs)

    def _receive(self, outputs: EngineCoreOutputs) -> None:
        if not self.resources.engine_dead:
            self._outputs.put_nowait(outputs)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """An engine that fails by itself is a finding; the server sees it die."""
        if not task.cancelled() and task.exception() is not None:
            self.die()


class SimEngine(AsyncLLM):
    """vLLM's own client of the engine, made without starting one."""

    def __init__(
        self, plan: ServerPlan, target: str | KnownTarget, log: EventLog, folder: Path | None = None
    ) -> None:
        """Set what `AsyncLLM.__init__` sets, but for the engine, loggers and profilers.

        `folder` has the configuration and the tokenizer of a `target` that is not a simulated one.
        """
        key = plan.max_num_seqs, plan.max_draft, folder
        config = engine_config(*key)
        self.vllm_config = config
        self.model_config = config.model_config
        self.scheduler_config = config.scheduler_config
        self.observability_config = config.observability_config
        self.log_requests = self.log_stats = False
        self.admission_stats = None
        self.logger_manager = None
        self.output_handler: asyncio.Task[None] | None = None
        self.renderer = _renderer(*key)
        self.input_processor = _InputProcessor(config, self.renderer)
        self.output_processor = OutputProcessor(self.renderer.tokenizer, log_stats=False)
        known = KnownTarget(target) if isinstance(target, str) else target
        self.engine_core = _Ipc(plan, known, log, folder)

    def __del__(self) -> None:
        """Nothing to free."""

    @property
    def process(self) -> EngineProcess:
        """The simulated engine process."""
        process: EngineProcess = self.engine_core.process
        return process

    def abort_all(self) -> None:
        """An operator empties the engine."""
        self.engine_core.abort_all()

    def die(self) -> None:
        """The engine process is killed."""
        self.engine_core.die()

    def stop(self) -> None:
        """API server and engine are killed."""
        self.process.stop()
        if self.output_handler is not None:
            self.output_handler.cancel()

    @property
    def num_requests(self) -> int:
        """Requests that are known on either side."""
        return len(self.output_processor.request_states) + len(self.process.scheduler.requests)

    def failure(self) -> BaseException | None:
        """What the engine's loop died of, if it was not stopped."""
        task = self.process.task
        return task.exception() if task.done() and not task.cancelled() else None


class _InputProcessor(InputProcessor):
    """vLLM's, with ids that are counted, not drawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ids = itertools.count()

    def assign_request_id(self, request: EngineCoreRequest) -> None:
        request.external_req_id = request.request_id
        request.request_id = f"{request.external_req_id}-{next(self._ids):08x}"
