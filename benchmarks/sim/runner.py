"""The model runner of a simulated engine: a KV cache of blocks with content, and the target's picks.

Knows what a real worker knows: `SchedulerOutput` and what it sampled itself. A block that is reused too
early, a position that is not computed, a token that is not the text's: all change the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import GrammarOutput, NewRequestData, SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput

from benchmarks.sim.models import KnownTarget, picker_of
from edge_agent.sampling import TokenPicker
from pipesd_vllm.wire import Sampling

__all__ = ["ModelRunner", "sampling_of"]

_MASK = 2**64 - 1


def sampling_of(params: SamplingParams) -> Sampling:
    """vLLM's parameters of a request in the wire's terms."""
    return Sampling(
        max_tokens=params.max_tokens or 1,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=params.seed,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        min_tokens=params.min_tokens,
        logit_bias=params.logit_bias or {},
        allowed_token_ids=params.allowed_token_ids or [],
        stop_token_ids=sorted(params.all_stop_token_ids),
    )


@dataclass(slots=True)
class _Row:
    """One request as the worker knows it; `start`: the first position of the next step.

    Under async scheduling the scheduler does not know `start` yet: as in Model Runner V2 it is kept here.
    """

    tokens: list[int]
    blocks: list[int]
    start: int
    picker: TokenPicker | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1))
    prompt_length: int = 0


class ModelRunner:
    """Executes steps for one target."""

    def __init__(self, target: KnownTarget, num_blocks: int, block_size: int, most_rows: int) -> None:
        self._target = target
        self._block_size = block_size
        self._kv: NDArray[np.uint64] = np.zeros((num_blocks, block_size), dtype=np.uint64)
        self._most_rows = most_rows
        self._rows: dict[str, _Row] = {}

    def execute(self, output: SchedulerOutput, grammar: GrammarOutput | None) -> ModelRunnerOutput:
        """One step: compute what is scheduled, verify drafts, sample. As a worker, in the order of steps."""
        self._follow(output)
        masks = _masks(grammar, output)
        ids = list(output.num_scheduled_tokens)
        sampled = [self._step(request_id, output, masks.get(request_id)) for request_id in ids]
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
        )

    def _follow(self, output: SchedulerOutput) -> None:
        """Take over what the scheduler changed."""
        for request_id in {*output.finished_req_ids, *(output.preempted_req_ids or ())}:
            self._rows.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self._rows[new.req_id] = self._row(new)
        cached = output.scheduled_cached_reqs
        for request_id, blocks in zip(cached.req_ids, cached.new_block_ids, strict=True):
            self._rows[request_id].blocks += blocks[0] if blocks is not None else ()
        if len(self._rows) > self._most_rows:
            raise RuntimeError(f"{len(self._rows)} requests in a worker that has {self._most_rows} rows")

    def _row(self, new: NewRequestData) -> _Row:
        tokens = list(new.prefill_token_ids or ())
        row = _Row(tokens, list(new.block_ids[0]), new.num_computed_tokens)
        if new.sampling_params is not None:
            row.sampling = sampling_of(new.sampling_params)
            row.prompt_length = new.prompt_len
            self._target.begin(tokens[: new.prompt_len])
            row.picker = picker_of(row.sampling, row.prompt_length)
        return row

    def _step(self, request_id: str, output: SchedulerOutput, masks: NDArray[np.bool_] | None) -> list[int]:
        row = self._rows[request_id]
        drafts = output.scheduled_spec_decode_tokens.get(request_id, [])
        end = row.start + output.num_scheduled_tokens[request_id]
        inputs = [*row.tokens, *drafts]
        totals = self._compute(row, inputs[row.start : end])
        row.start = end
        if end < len(inputs):
            return []  # a chunk of a prefill
        sampled = self._sample(row, drafts, totals[len(totals) - len(drafts) - 1 :], masks)
        row.start -= len(drafts) + 1 - len(sampled)
        return sampled

    def _compute(self, row: _Row, inputs: Sequence[int]) -> list[int]:
        """Write the KV entries of `inputs` from `row.start` on; the sum over all entries after each."""
        kv, size, blocks = self._kv, self._block_size, row.blocks
        read = kv[blocks[: -(-row.start // size)]].reshape(-1)[: row.start]
        total = (self._target.salt + int(read.sum(dtype=np.uint64))) & _MASK
        totals = []
        for position, token in enumerate(inputs, row.start):
            entry = self._target.entry(total, token, position)
            kv[blocks[position // size], position % size] = entry
            total = (total + entry) & _MASK
            totals.append(total)
        return totals

    def _sample(
        self, row: _Row, drafts: Sequence[int], totals: Sequence[int], masks: NDArray[np.bool_] | None
    ) -> list[int]:
        """The drafts that the target picks, too, and one token more."""
        sampled = []
        for index, total in enumerate(totals):
            mask = None if masks is None else masks[index]
            token = self._pick(row, total, mask)
            row.tokens.append(token)
            sampled.append(token)
            if index == len(drafts) or token != drafts[index]:
                break
        return sampled

    def _pick(self, row: _Row, total: int, mask: NDArray[np.bool_] | None) -> int:
        last = row.tokens[-1]
        if row.picker is None and mask is None:
            return self._target.greedy(total, last)
        logits = self._target.logits(total, last)
        if mask is not None:
            logits[~mask] = -np.inf
        if row.picker is None:
            return int(logits.argmax())
        return row.picker.pick(logits, row.tokens).token_id


def _masks(grammar: GrammarOutput | None, output: SchedulerOutput) -> dict[str, NDArray[np.bool_]]:
    """For each structured request the tokens that its grammar allows, `[drafts + 1, vocabulary]`."""
    if grammar is None:
        return {}
    masks, row = {}, 0
    for request_id in grammar.structured_output_request_ids:
        num_rows = 1 + len(output.scheduled_spec_decode_tokens.get(request_id, ()))
        words = np.ascontiguousarray(grammar.grammar_bitmask[row : row + num_rows])
        masks[request_id] = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
        row += num_rows
    return masks
