"""A `Drafter` without a model, for tests and demonstrations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting import DraftModelInfo
from edge_agent.drafting.llama.slots import SequenceTable
from edge_agent.sampling import DraftToken, GreedyPicker, TokenPicker
from pipesd_vllm.wire import Fingerprint, fingerprint

__all__ = ["FakeDrafter"]


class FakeDrafter:
    """Drafts what `next_token` says, with the bookkeeping and the limits of the real drafter.

    `next_token` maps a sequence's tokens to the next one, or to the logits `[len(vocabulary)]` that the
    sequence's picker picks it from; `vocabulary` holds the token strings in
    id order. `num_cells` tokens in all (as many as fill every sequence, unless given) are shared by
    `max_sequences` sequences of at most `context_length` tokens; `n_batch` tokens at most are
    evaluated a call. Each `draft` that evaluates anything takes `sleep_s`.
    """

    def __init__(
        self,
        next_token: Callable[[Sequence[int]], DraftToken | NDArray[np.float32]],
        vocabulary: Sequence[str],
        *,
        context_length: int = 1024,
        max_sequences: int = 4,
        num_cells: int | None = None,
        n_batch: int = 512,
        sleep_s: float = 0.0,
    ) -> None:
        self._next_token = next_token
        self._vocabulary = vocabulary
        self._n_batch = n_batch
        self._sleep_s = sleep_s
        self._info = DraftModelInfo("fake", len(vocabulary), context_length, max_sequences)
        if num_cells is None:
            num_cells = context_length * max_sequences
        self._table = SequenceTable(max_sequences, num_cells, context_length)
        self._greedy = GreedyPicker()
        self._pickers: dict[int, TokenPicker] = {}
        self._abort = threading.Event()
        self.evaluated_tokens = 0
        """As `LlamaDrafter.evaluated_tokens`."""
        self.closed = False

    @property
    def info(self) -> DraftModelInfo:
        return self._info

    def vocabulary(self) -> Sequence[str]:
        return self._vocabulary

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return fingerprint(self._vocabulary[:num_tokens])

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        plan = self._table.plan_open(tokens)
        self._table.open(plan, tokens)
        self._pickers[plan.slot] = picker or self._greedy
        return plan.slot

    def rewrite(self, sequence: int, length: int, tokens: Sequence[int]) -> None:
        self._table.rewrite(sequence, length, tokens)
        self._pickers[sequence].rewind(length)

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        chunks = self._table.plan_batch(sequences, self._n_batch)
        if not chunks or self._is_aborted():
            return {}
        num_tokens = sum(len(chunk.tokens) for chunk in chunks)
        while (slot := self._table.plan_eviction(num_tokens)) is not None:
            self._table.truncate(slot, 0)
        self.evaluated_tokens += num_tokens
        drafted = {}
        for chunk in chunks:
            self._table.mark_evaluated(chunk)
            if chunk.completes:
                token = self._pick(chunk.slot)
                self._table.append(chunk.slot, token.token_id)
                drafted[chunk.slot] = token
        return drafted

    def room(self, sequence: int) -> int:
        return self._table.room(sequence)

    def close_sequence(self, sequence: int) -> None:
        self._table.close(sequence)
        del self._pickers[sequence]

    def request_abort(self) -> None:
        """As `LlamaDrafter.request_abort`: cuts the running (or else the next) call's sleep short."""
        self._abort.set()

    def close(self) -> None:
        self.closed = True

    def tokens(self, sequence: int) -> tuple[int, ...]:
        """What the sequence holds, drafted tokens included."""
        return tuple(self._table.tokens(sequence))

    def _pick(self, slot: int) -> DraftToken:
        tokens = tuple(self._table.tokens(slot))
        found = self._next_token(tokens)
        return found if isinstance(found, DraftToken) else self._pickers[slot].pick(found, tokens)

    def _is_aborted(self) -> bool:
        """Sleeps; whether an abort was asked for meanwhile (or since the call before)."""
        aborted = self._abort.wait(self._sleep_s)
        self._abort.clear()
        return aborted
