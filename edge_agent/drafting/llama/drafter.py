"""A draft model run by llama.cpp in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from edge_agent.drafting.drafter import DraftModelInfo
from edge_agent.drafting.llama.context import DecodeStatus, LlamaContext
from edge_agent.drafting.llama.loading import LlamaSettings
from edge_agent.drafting.llama.slots import Chunk, SequenceTable
from edge_agent.errors import DraftCapacityError, ModelError, PairingError
from edge_agent.sampling import DraftToken, GreedyPicker, TokenPicker
from pipesd_vllm.wire import Fingerprint, fingerprint

__all__ = ["LlamaDrafter", "LlamaSettings"]

_LEAST_BATCH: Final = 32
"""Tokens of a call from which on its speed is a prompt's; smaller calls are not much quicker."""


class LlamaDrafter:
    """A `Drafter` over one llama.cpp context.

    Beyond the Protocol: `open` and `rewrite` raise `PairingError` for token ids the model does
    not know; `draft` raises `ModelError` if llama.cpp fails, and `DraftCapacityError` if it
    finds no cells (the sequences are unchanged in both cases); `request_abort` ends a
    running `draft` early.
    """

    def __init__(
        self,
        context: LlamaContext,
        settings: LlamaSettings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`settings` are those `context` was made with. Owns `context` from now on. `clock` in seconds."""
        self._context = context
        self._table = SequenceTable(settings.max_sequences, settings.n_ctx, context.context_length)
        self._n_batch = settings.n_batch
        self._longest_call_s = settings.longest_call_s
        self._clock = clock
        self._tokens_per_s: float | None = None
        """Of the last call with more than a few tokens."""
        self._info = DraftModelInfo(
            name=context.name,
            num_tokens=context.num_tokens,
            context_length=context.context_length,
            max_sequences=settings.max_sequences,
        )
        self._greedy = GreedyPicker()
        self._pickers: dict[int, TokenPicker] = {}
        self._fingerprints: dict[int, Fingerprint] = {}
        self._evaluated_tokens = 0

    @classmethod
    def load(cls, path: Path, settings: LlamaSettings | None = None) -> LlamaDrafter:
        """Load a GGUF file. Raises `ModelError`."""
        settings = settings or LlamaSettings()
        return cls(LlamaContext(path, settings), settings)

    @property
    def info(self) -> DraftModelInfo:
        return self._info

    @property
    def evaluated_tokens(self) -> int:
        """How many tokens the model has evaluated since it was loaded."""
        return self._evaluated_tokens

    def vocabulary(self) -> Sequence[str]:
        return [self._context.token_text(token) for token in range(self._info.num_tokens)]

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        num_tokens = min(num_tokens, self._info.num_tokens)
        if num_tokens not in self._fingerprints:
            self._fingerprints[num_tokens] = fingerprint(map(self._context.token_text, range(num_tokens)))
        return self._fingerprints[num_tokens]

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        self._check_known(tokens)
        plan = self._table.plan_open(tokens)
        if plan.copy_from is not None:
            self._context.clear(plan.slot)
            self._context.copy(plan.copy_from, plan.slot, plan.keep)
        self._table.open(plan, tokens)
        self._truncate(plan.slot, plan.keep)
        self._pickers[plan.slot] = picker or self._greedy
        return plan.slot

    def rewrite(self, sequence: int, length: int, tokens: Sequence[int]) -> None:
        self._check_known(tokens)
        keep = self._table.rewrite(sequence, length, tokens)
        self._pickers[sequence].rewind(length)
        self._truncate(sequence, keep)

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        chunks = self._table.plan_batch(sequences, self._batch_limit())
        if not chunks:
            return {}
        try:
            return self._pick(chunks) if self._evaluate(chunks) else {}
        finally:  # a request that came too late for this call must not abort the next one
            self._context.clear_abort()

    def _batch_limit(self) -> int:
        """Tokens of the next call."""
        if self._longest_call_s is None:
            return self._n_batch
        least = max(_LEAST_BATCH, self._info.max_sequences)
        fitting = least if self._tokens_per_s is None else int(self._tokens_per_s * self._longest_call_s)
        return min(self._n_batch, max(least, fitting))

    def room(self, sequence: int) -> int:
        return self._table.room(sequence)

    def close_sequence(self, sequence: int) -> None:
        self._table.close(sequence)
        del self._pickers[sequence]

    def request_abort(self) -> None:
        """Make the running `draft` return early, from any thread; if none runs, the next one that evaluates.

        That call returns nothing, and what it was evaluating stays pending. Layers on a GPU
        are not interrupted, nor is a call that has evaluated all and picks: the request ends with it.
        """
        self._context.request_abort()

    def close(self) -> None:
        self._context.close()

    def _check_known(self, tokens: Sequence[int]) -> None:
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._info.num_tokens):
            raise PairingError(
                f"token ids from {min(tokens)} to {max(tokens)}, but the draft model knows "
                f"{self._info.num_tokens} tokens: use a draft model with the target's vocabulary"
            )

    def _evaluate(self, chunks: Sequence[Chunk]) -> bool:
        """Whether `chunks` are evaluated now; False after an abort. Else raises, all chunks pending."""
        num_tokens = sum(len(chunk.tokens) for chunk in chunks)
        self._free_cells(num_tokens)
        began_s = self._clock()
        status = self._context.decode(chunks)
        if status is DecodeStatus.DONE and num_tokens >= _LEAST_BATCH:
            self._tokens_per_s = num_tokens / max(self._clock() - began_s, 1e-6)
        if status is DecodeStatus.NO_CELLS and self._free_cells(None):
            status = self._context.decode(chunks)
        if status is DecodeStatus.DONE:
            for chunk in chunks:
                self._table.mark_evaluated(chunk)
                self._evaluated_tokens += len(chunk.tokens)
            return True
        self._undo(chunks, status)
        if status is DecodeStatus.NO_CELLS:
            raise DraftCapacityError(
                "the draft context is full: close a sequence, or make the context larger"
            )
        if status is DecodeStatus.FAILED:
            raise ModelError(
                "llama.cpp failed to evaluate the draft model: load it again, or use another one"
            )
        return False

    def _pick(self, chunks: Sequence[Chunk]) -> Mapping[int, DraftToken]:
        """The next token of each sequence that is evaluated to its end now, appended to it."""
        drafted = {}
        for chunk, end in zip(chunks, accumulate(len(chunk.tokens) for chunk in chunks), strict=True):
            if chunk.completes:
                logits, tokens = self._context.logits(end - 1), self._table.tokens(chunk.slot)
                token = self._pickers[chunk.slot].pick(logits, tokens)
                self._table.append(chunk.slot, token.token_id)
                drafted[chunk.slot] = token
        return drafted

    def _undo(self, chunks: Sequence[Chunk], status: DecodeStatus) -> None:
        """Make `chunks` pending again after a decode that was not `DONE`."""
        if self._context.is_recurrent and status is not DecodeStatus.NO_CELLS:
            # llama.cpp moves states about before it evaluates, and an aborted evaluation leaves even
            # those of sequences outside the batch where they should not be.
            self._context.clear_all()
            for slot in range(self._info.max_sequences):
                self._table.truncate(slot, 0)
        for chunk in chunks:
            self._truncate(chunk.slot, min(chunk.start, self._table.num_evaluated(chunk.slot)))

    def _free_cells(self, num_cells: int | None) -> bool:
        """Give up closed sequences until `num_cells` are free (None: all of them); whether any was."""
        evicted = False
        while (slot := self._table.plan_eviction(num_cells)) is not None:
            self._context.clear(slot)
            self._table.truncate(slot, 0)
            evicted = True
        return evicted

    def _truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` evaluated positions, or none if the model's memory cannot go back."""
        if not self._context.remove(slot, length):
            self._context.clear(slot)
            length = 0
        self._table.truncate(slot, length)
