"""vLLM's real scheduler with ours on top, and a model that is a function of the prefix.

Everything but the forward pass is real: KV block accounting, preemption, queues, outputs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.launch import ensure_embedded_target
from pipesd_vllm.scheduling import Command, OpenSession, pack_command
from pipesd_vllm.scheduling.scheduler import AsyncPipeSDScheduler, PipeSDScheduler, SchedulesSessions

BLOCK_SIZE = 16
MAX_DRAFT = 8


@cache
def engine_config(max_num_seqs: int) -> VllmConfig:
    """vLLM's own configuration for the embedded target on this machine."""
    arguments = EngineArgs(
        model=str(ensure_embedded_target()),
        max_model_len=512,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=512,
        block_size=BLOCK_SIZE,
        speculative_config={**speculative_config(FillIn.NONE), "num_speculative_tokens": MAX_DRAFT},
    )
    return arguments.create_engine_config()


def next_token(tokens: Sequence[int]) -> int:
    """The simulated target's choice."""
    return (31 * len(tokens) + 7 * tokens[-1] + tokens[0]) % 1000 + 10


def target_text(prompt: Sequence[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@dataclass
class Row:
    """A request in the simulated worker, as Model Runner V2 keeps it: ahead of the scheduler under async."""

    tokens: list[int]
    computed: int

    def step(self, num_scheduled: int, drafts: Sequence[int]) -> list[int]:
        """The tokens that the step commits; none while the prompt is read."""
        self.computed += num_scheduled
        if self.computed < len(self.tokens) + len(drafts):
            return []
        new: list[int] = []
        for draft in [*drafts, None]:
            new.append(next_token([*self.tokens, *new]))
            if new[-1] != draft:
                break
        self.computed -= len(drafts) + 1 - len(new)
        self.tokens += new
        return new


class Harness:
    """Steps the scheduler by hand; `text[request_id]` is what the engine put out."""

    def __init__(
        self,
        *,
        num_blocks: int = 200,
        max_num_seqs: int = 8,
        scheduler: type[SchedulesSessions] = PipeSDScheduler,
        data_parallel: bool = False,
        has_budget: bool = False,
    ) -> None:
        """`data_parallel`: vLLM's clients ask which requests have finished; `reported` are those.
        `has_budget`: drafts must be worth the time of their rows, which is that of the scheduler's clock.

        With an `AsyncPipeSDScheduler` each step is scheduled while the one before runs.
        """
        config = engine_config(max_num_seqs)
        config.cache_config.num_gpu_blocks = num_blocks
        spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
        self._max_num_rows = max_num_seqs
        self._rows: dict[str, Row] = {}
        self._is_async = issubclass(scheduler, AsyncPipeSDScheduler)
        self._in_flight: deque[tuple[SchedulerOutput, dict[str, list[int]]]] = deque()
        self.scheduler: Any = scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK_SIZE,
            include_finished_set=data_parallel,
            log_stats=False,
        )
        self.scheduler.has_budget = has_budget
        init_none_hash(sha256)
        self._block_hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
        self.text: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self.reported: list[str] = []
        self.passes: dict[str, int] = {}

    def add(
        self,
        request_id: str,
        prompt: Sequence[int],
        max_tokens: int,
        command: Command | None = None,
        structure: StructuredOutputsParams | None = None,
        bad_words: Sequence[list[int]] = (),
    ) -> None:
        """An ordinary request, or a session when `command` opens one.

        With a `structure` it waits for a grammar, which nobody compiles.
        """
        self.text[request_id] = []
        self.passes[request_id] = 0
        self._submit(request_id, prompt, max_tokens, command, structure, bad_words)

    def open(self, request_id: str, prompt: Sequence[int], max_tokens: int, *, eager: bool = False) -> None:
        self.add(request_id, prompt, max_tokens, OpenSession(eager))

    def tell(self, request_id: str, command: Command, tokens: Sequence[int] = (0,)) -> None:
        """A later chunk of the session's input."""
        self._submit(request_id, tokens, 1, command)

    def has_work(self) -> bool:
        """What the engine's loop asks before it goes to sleep."""
        return bool(self._in_flight or self.scheduler.has_requests())

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> SchedulerOutput:
        """One engine step: schedule, run the simulated model and `meanwhile`, update."""
        output: SchedulerOutput | None = None
        if self.scheduler.has_requests() or not self._in_flight:
            output = self.scheduler.schedule()
            self._in_flight.append((output, self._run_model(output)))
        meanwhile()
        if self._is_async and output and output.num_scheduled_tokens and len(self._in_flight) < 2:
            return output  # the next step is scheduled before this one's result is looked at
        oldest, sampled = self._in_flight.popleft()
        self._update(oldest, sampled)
        return output or oldest

    def run(self, most: int = 500) -> int:
        """Step until the engine would sleep; returns the number of steps."""
        for step in range(most):
            if not self.has_work():
                return step
            self.step()
        raise AssertionError("the engine does not come to rest")

    def used_blocks(self) -> float:
        return float(self.scheduler.get_kv_cache_usage())

    def _submit(
        self,
        request_id: str,
        tokens: Sequence[int],
        max_tokens: int,
        command: Command | None,
        structure: StructuredOutputsParams | None = None,
        bad_words: Sequence[list[int]] = (),
    ) -> None:
        packed = {} if command is None else pack_command(command)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=structure,
            extra_args=packed or None,
        )
        params._bad_words_token_ids = list(bad_words)  # as vLLM's front end has tokenised them
        request = Request(
            request_id=request_id,
            prompt_token_ids=list(tokens),
            sampling_params=params,
            pooling_params=None,
            resumable=command is not None,
            block_hasher=self._block_hasher,
        )
        self.scheduler.add_request(request)

    def _run_model(self, output: SchedulerOutput) -> dict[str, list[int]]:
        for request_id in {*output.finished_req_ids, *(output.preempted_req_ids or ())}:
            self._rows.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self._rows[new.req_id] = Row(list(new.prefill_token_ids), new.num_computed_tokens)
        assert len(self._rows) <= self._max_num_rows, "more requests than the workers have rows"
        drafts = output.scheduled_spec_decode_tokens
        return {
            request_id: self._rows[request_id].step(count, drafts.get(request_id, ()))
            for request_id, count in output.num_scheduled_tokens.items()
        }

    def _update(self, output: SchedulerOutput, sampled: dict[str, list[int]]) -> None:
        ids = list(output.num_scheduled_tokens)
        for request_id in ids:
            self.passes[request_id] += 1
        result = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=[sampled[request_id] for request_id in ids],
        )
        for batch in self.scheduler.update_from_output(output, result).values():
            self.reported += batch.finished_requests or ()
            for item in batch.outputs:
                self.text[item.request_id] += item.new_token_ids
                if item.finish_reason is not None:
                    self.finished.add(item.request_id)
                if item.finish_reason is FinishReason.ERROR:
                    self.failed.add(item.request_id)
