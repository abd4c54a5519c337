"""vLLM's two samplers with the shared noise for requests that have a rule (docs/sampling.md).

`CoupledSampler` serves steps without drafts, `CoupledRejectionSampler` those with. Both pick each row's
token by the same code, the drafts are then laid beside it: kept while equal, replaced at the first
difference. Other requests go through vLLM's own modules, untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from pipesd_vllm.wire import common_prefix_length
from pipesd_vllm.worker.coupled_batch import Batch, Seat, broken_at
from pipesd_vllm.worker.gumbel_max import argmax_rows, pick
from pipesd_vllm.worker.logit_rules import adjust
from pipesd_vllm.worker.row_rules import RowRules

__all__ = ["CoupledRejectionSampler", "CoupledSampler"]

_NO_TOKEN = -1  # vLLM's PLACEHOLDER_TOKEN_ID


@dataclass(frozen=True, slots=True)
class _Span:
    """A seat's rows of the step's logits: one after each of its drafts, and one before them."""

    seat: Seat
    start: int
    drafts: Sequence[int] = ()

    @property
    def num_rows(self) -> int:
        return len(self.drafts) + 1


class _Chooser:
    """The tokens of all rows of the seats of one step, and what is reported of them."""

    def __init__(self, logprobs_mode: str) -> None:
        self._reports_processed = logprobs_mode.startswith("processed")
        self._reports_logits = logprobs_mode.endswith("logits")

    def choose(
        self, logits: torch.Tensor, spans: Sequence[_Span], wants_scores: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows' tokens `[m]` int64, and where wanted their scores `[m, vocab]` by vLLM's `logprobs_mode`.

        The tokens of a request that cannot be sampled are -1.

        `logits` are overwritten only if all their rows are the spans'.
        """
        rows = self._rows(logits, spans)
        scores = self._scores(rows) if wants_scores and not self._reports_processed else None
        broken = {span.seat.index for span in spans if span.seat.is_broken}
        start = 0
        for span in spans:
            if span.seat.rule.adjusts:
                seat, own = span.seat, rows[start : start + span.num_rows]
                with broken_at(seat.index, broken):
                    generated = [*seat.tokens[seat.num_prompt :].tolist(), *span.drafts]
                    adjust(own, seat.rule, seat.tokens[: seat.num_prompt], generated)
            start += span.num_rows
        if wants_scores and self._reports_processed:
            scores = self._scores(rows)
        is_sampled = any(span.seat.rule.temperature for span in spans)
        tokens = pick(rows, _row_rules(spans)) if is_sampled else argmax_rows(rows)
        if broken:
            is_out = [span.seat.index in broken for span in spans for _ in range(span.num_rows)]
            tokens[torch.tensor(is_out, device=tokens.device)] = _NO_TOKEN
        return tokens, scores

    @staticmethod
    def _rows(logits: torch.Tensor, spans: Sequence[_Span]) -> torch.Tensor:
        if sum(span.num_rows for span in spans) == logits.shape[0]:
            return logits.to(torch.float32).contiguous()
        at = [row for span in spans for row in range(span.start, span.start + span.num_rows)]
        return logits[torch.tensor(at, device=logits.device)].to(torch.float32)

    def _scores(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.clone() if self._reports_logits else Sampler.compute_logprobs(rows)


def _row_rules(spans: Sequence[_Span]) -> RowRules:
    rows = [(span.seat.rule, len(span.seat.tokens) + j) for span in spans for j in range(span.num_rows)]
    return RowRules(
        seed=[rule.seed for rule, _ in rows],
        position=[position for _, position in rows],
        temperature=[rule.temperature for rule, _ in rows],
        top_p=[rule.top_p for rule, _ in rows],
        top_k=[rule.top_k for rule, _ in rows],
        min_p=[rule.min_p for rule, _ in rows],
    )


def _report(
    stock: LogprobsTensors | None,
    num_logprobs: int,
    scores: torch.Tensor,
    tokens: torch.Tensor,
    places: list[int],
    num_places: int,
) -> LogprobsTensors:
    """`stock` (None: nothing) with the log-probabilities of our `tokens` at `places` of `num_places`."""
    if stock is None:
        width = num_logprobs + 1
        stock = LogprobsTensors(
            tokens.new_zeros((num_places, width), dtype=torch.int32),
            scores.new_zeros((num_places, width)),
            tokens.new_zeros(num_places),
        )
    ours = Sampler.gather_logprobs(scores, stock.logprobs.shape[1] - 1, tokens.clamp(min=0))
    at = torch.tensor(places, device=tokens.device)
    stock.logprob_token_ids[at] = ours.logprob_token_ids.to(stock.logprob_token_ids.dtype)
    stock.logprobs[at] = ours.logprobs
    stock.selected_token_ranks[at] = ours.selected_token_ranks.to(stock.selected_token_ranks.dtype)
    return stock


class CoupledSampler(Sampler):
    """Takes the place of the model runner's `sampler`."""

    def __init__(self, stock: Sampler, batch: Batch) -> None:
        super().__init__(stock.logprobs_mode, stock.use_fp64_gumbel)
        self._batch = batch
        self._chooser = _Chooser(stock.logprobs_mode)

    def forward(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args: object, **kwargs: object
    ) -> SamplerOutput:
        spans = [_Span(seat, seat.index) for seat in self._batch.seats()]
        if not spans:
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        num_logprobs = sampling_metadata.max_num_logprobs
        num_rows = logits.shape[0]
        tokens, scores = self._chooser.choose(logits, spans, num_logprobs is not None)
        if len(spans) < num_rows:
            output = super().forward(logits, sampling_metadata, *args, **kwargs)
        else:
            output = SamplerOutput(tokens.new_zeros((num_rows, 1), dtype=torch.int32), None)
        places = [span.start for span in spans]
        output.sampled_token_ids[places, 0] = tokens.to(torch.int32)
        if scores is not None:
            output.logprobs_tensors = _report(
                output.logprobs_tensors, num_logprobs, scores, tokens, places, num_rows
            )
        return output


class CoupledRejectionSampler(RejectionSampler):
    """Takes the place of the model runner's `rejection_sampler`; vLLM's own sampler serves the others."""

    def __init__(
        self, stock: RejectionSampler, batch: Batch, spec_config: object, device: torch.device
    ) -> None:
        super().__init__(stock.sampler, spec_config, device)
        self._batch = batch
        self._chooser = _Chooser(stock.sampler.logprobs_mode)

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: torch.Tensor | None,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        seats = self._batch.seats()
        if not seats:
            return super().forward(metadata, draft_probs, logits, sampling_metadata)
        spans = _spans(seats, metadata)
        num_logprobs = sampling_metadata.max_num_logprobs
        tokens, scores = self._chooser.choose(logits, spans, num_logprobs is not None)
        shape = (len(metadata.num_draft_tokens), metadata.max_spec_len + 1)
        if len(seats) < shape[0]:
            output = super().forward(metadata, draft_probs, logits, sampling_metadata)
        else:
            output = SamplerOutput(torch.empty(shape, dtype=torch.int32, device=logits.device), None)
        _write(output.sampled_token_ids, spans, tokens.tolist())
        if scores is not None:
            places = [span.seat.index * shape[1] + j for span in spans for j in range(span.num_rows)]
            output.logprobs_tensors = _report(
                output.logprobs_tensors, num_logprobs, scores, tokens, places, shape[0] * shape[1]
            )
        return output


def _spans(seats: Sequence[Seat], metadata: SpecDecodeMetadata) -> list[_Span]:
    """vLLM lays the rows out request by request: those of its drafts' positions, then the one after."""
    drafts = metadata.draft_token_ids.tolist()
    starts = [0]
    for count in metadata.num_draft_tokens:
        starts.append(starts[-1] + count)
    return [
        _Span(seat, starts[seat.index] + seat.index, drafts[starts[seat.index] : starts[seat.index + 1]])
        for seat in seats
    ]


def _write(sampled: torch.Tensor, spans: Sequence[_Span], picked: list[int]) -> None:
    """Write each span's committed tokens into its row of `sampled`, padded with -1."""
    width, start, lines = sampled.shape[1], 0, []
    for span in spans:
        own = picked[start : start + span.num_rows]
        kept = own[: common_prefix_length(own, span.drafts) + 1]  # the first that differs is committed, too
        lines.append(kept + [_NO_TOKEN] * (width - len(kept)))
        start += span.num_rows
    at = [span.seat.index for span in spans]
    sampled[at] = torch.tensor(lines, dtype=sampled.dtype, device=sampled.device)
