"""Drafts for all open sequences, one model call at a time. No thread and no event loop of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting.drafter import Drafter
from edge_agent.drafting.events import Drafted, DraftEvent, DraftingStopped, OnEvent, Rewound
from edge_agent.errors import DraftCapacityError, EdgeError
from edge_agent.sampling import DraftToken, GreedyPicker, TokenPicker

__all__ = ["Drafting", "GuardedPicker"]

logger = logging.getLogger("pipesd.draft")

_STAND_IN: Final = DraftToken(0, 1.0)
"""What a picker that failed gives: the drafts are void."""
_NUM_SINKS: Final = 4
"""First tokens of a sequence that a window over its end keeps: without them models lose their footing (Xiao
et al. 2024, "Efficient streaming language models with attention sinks")."""
_LEAST_CONTEXT: Final = 16
"""A context below this is too short for a window."""


class _Sequence:
    """One open sequence. `limit`: draft up to this length.

    Where the sequence is longer than the drafter's context, the drafter holds its first `_NUM_SINKS` tokens
    and its end: `num_dropped` tokens between them are left out there.
    """

    def __init__(
        self,
        tokens: list[int],
        limit: int,
        on_event: OnEvent,
        picker: TokenPicker,
        window: int | None,
    ) -> None:
        """`window`: how many tokens to keep of a sequence that outgrows the drafter; None: none, it ends."""
        self.tokens = tokens
        self.limit = limit
        self.on_event = on_event
        self.picker = GuardedPicker(picker, self)
        self.num_dropped = 0
        self.num_followed = 0
        self.stopped = False
        self._window = window

    def slide(self) -> list[int] | None:
        """Drop tokens from the middle; what the drafter is to hold then. None: it cannot be done."""
        if self._window is None:
            return None
        self.num_dropped = max(0, len(self.tokens) - self._window)
        return self.held()

    def held(self) -> list[int]:
        """The tokens in the drafter."""
        num_sinks = _NUM_SINKS if self.num_dropped else 0
        return self.tokens[:num_sinks] + self.tokens[num_sinks + self.num_dropped :]

    def wants_draft(self) -> bool:
        return not self.stopped and len(self.tokens) < self.limit


class Drafting:
    """Follows what is committed and drafts after it. All but `abort_call_for` belongs to one thread.

    `deliver(on_event, event)` brings an event to the sequence's `on_event`. `clock` in seconds.
    """

    def __init__(
        self, drafter: Drafter, clock: Callable[[], float], deliver: Callable[[OnEvent, DraftEvent], None]
    ) -> None:
        self._drafter = drafter
        self._clock = clock
        self._deliver = deliver
        self._sequences: dict[int, _Sequence] = {}
        self._drafting_for: list[int] = []
        self._started_s = 0.0

    def open(
        self,
        tokens: list[int],
        limit: int,
        on_event: OnEvent,
        picker: TokenPicker | None,
        *,
        slides: bool = False,
    ) -> int:
        """Draft after `tokens` up to length `limit`; the sequence's number. Raises `DraftCapacityError`.

        A `picker` that fails ends the drafts of this sequence only; None picks greedily. `slides`: a sequence
        that does not fit the drafter's context is drafted for after its first tokens and its end.
        """
        context = self._drafter.info.context_length
        window = context // 2 if slides and context >= _LEAST_CONTEXT else None
        sequence = _Sequence(tokens, limit, on_event, picker or GreedyPicker(), window)
        if len(tokens) >= context:
            sequence.slide()
        number = self._drafter.open(sequence.held(), sequence.picker)
        self._sequences[number] = sequence
        return number

    def follow(
        self, number: int, position: int, tokens: list[int], limit: int, *, drops_rest: bool = False
    ) -> None:
        """`tokens` were committed or drafted elsewhere at `position`: rewind only where drafts disagree.

        `drops_rest`: drafts beyond `tokens` are void, too.
        """
        sequence = self._sequences.get(number)
        if sequence is None or sequence.stopped:
            return
        sequence.limit = limit
        sequence.num_followed += 1
        keep = _agreed_end(sequence.tokens, position, tokens)
        missing = tokens[keep - position :]
        rewound = keep < len(sequence.tokens)
        if not missing and not (drops_rest and rewound):
            return
        sequence.tokens[keep:] = missing
        if not self._rewrite(number, sequence, keep, missing):
            return
        if rewound:
            self._deliver(sequence.on_event, Rewound(keep))

    def _rewrite(self, number: int, sequence: _Sequence, keep: int, tokens: list[int]) -> bool:
        """Have the drafter follow: the first `keep` tokens stay, then come `tokens`. False: it cannot."""
        try:
            if sequence.num_dropped and keep < sequence.num_dropped + _NUM_SINKS:
                self._slide(number, sequence)
                return True
            try:
                self._drafter.rewrite(number, keep - sequence.num_dropped, tokens)
            except DraftCapacityError:
                if not self._slide(number, sequence):
                    raise
        except EdgeError as error:
            self._stop(sequence, str(error), failed=not isinstance(error, DraftCapacityError))
            return False
        return True

    def _slide(self, number: int, sequence: _Sequence) -> bool:
        """Have the drafter hold the sequence's end only. False: it does not slide. Raises as `rewrite`."""
        held = sequence.slide()
        if held is not None:
            self._drafter.rewrite(number, 0, held)
        return held is not None

    def set_limit(self, number: int, limit: int) -> None:
        """Draft on up to length `limit` only."""
        if (sequence := self._sequences.get(number)) is not None:
            sequence.limit = limit

    def close(self, number: int) -> None:
        """No events come after this; the evaluated prefix stays reusable."""
        if self._sequences.pop(number, None) is not None:
            self._drafter.close_sequence(number)

    def wanted(self) -> list[int]:
        """The sequences that want a draft now."""
        return [i for i, sequence in self._sequences.items() if sequence.wants_draft()]

    def draft(self, wanted: Sequence[int]) -> None:
        """One model call for those of `wanted` that still want a draft, if there are any."""
        if self.begin(wanted):
            self.finish()

    def begin(self, wanted: Sequence[int]) -> list[int]:
        """Begin a model call for those of `wanted` that still want a draft; if none do, none is begun."""
        self._drafting_for = [i for i in wanted if i in self._sequences and self._sequences[i].wants_draft()]
        self._started_s = self._clock()
        return self._drafting_for

    def finish(self) -> None:
        """Make the model call that was begun, and tell the sequences what came of it."""
        numbers = self._drafting_for
        try:
            drafts = self._drafter.draft(numbers)
        except EdgeError as error:
            for i in numbers:
                self._stop(self._sequences[i], str(error), failed=True)
            return
        finally:
            self._drafting_for = []
        ended_s = self._clock()
        for i in numbers:
            self._note(i, drafts.get(i), self._started_s, ended_s)

    def fail(self, reason: str) -> None:
        """Stop drafting for all sequences: a bug must not leave generations waiting for drafts."""
        for sequence in self._sequences.values():
            self._stop(sequence, reason, failed=True)

    def abort_call_for(self, number: int) -> None:
        """Cut the running model call short if it drafts for this sequence only; from any thread.

        With others in the call it does not pay: their drafts would be lost. If the call returns
        at this moment, the next one is cut short at once and repeated.
        """
        if self._drafting_for == [number]:
            self._drafter.request_abort()

    def _note(self, number: int, draft: DraftToken | None, started_s: float, ended_s: float) -> None:
        sequence = self._sequences[number]
        if sequence.picker.failure is not None:
            self._stop(sequence, sequence.picker.failure, failed=True)
        elif draft is not None:
            position, num_followed = len(sequence.tokens), sequence.num_followed
            self._deliver(sequence.on_event, Drafted(position, draft, started_s, ended_s, num_followed))
            sequence.tokens.append(draft.token_id)
        elif self._drafter.room(number) <= 0:
            try:
                if not self._slide(number, sequence):
                    self._stop(sequence, "the draft context is full")
            except EdgeError as error:
                self._stop(sequence, str(error), failed=not isinstance(error, DraftCapacityError))

    def _stop(self, sequence: _Sequence, reason: str, *, failed: bool = False) -> None:
        sequence.stopped = True
        self._deliver(sequence.on_event, DraftingStopped(reason, failed))


class GuardedPicker:
    """A `TokenPicker` that never raises: what `picker` raises becomes `failure`, and its drafts are void.

    One model call picks for all sequences; an error out of it would lose the others' tokens. The picker sees
    all tokens of `sequence`, also where the drafter holds only a part of them.
    """

    def __init__(self, picker: TokenPicker, sequence: _Sequence | None = None) -> None:
        self._picker = picker
        self._sequence = sequence
        self.failure: str | None = None
        """Why the last pick, and all after it, mean nothing; None: they are the picker's own."""

    @property
    def is_greedy(self) -> bool:
        """Whether no parameters bear on the pick."""
        return isinstance(self._picker, GreedyPicker)

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        if self.failure is None:
            try:
                return self._picker.pick(logits, self._whole(tokens))
            except Exception as error:
                self._note(error)
        return _STAND_IN

    def rewind(self, length: int) -> None:
        if self.failure is None:
            try:
                self._picker.rewind(length + self._num_dropped)
            except Exception as error:
                self._note(error)

    def _whole(self, held: Sequence[int]) -> Sequence[int]:
        """The sequence whose tokens in the drafter are `held`."""
        return self._sequence.tokens if self._sequence is not None and self._num_dropped else held

    @property
    def _num_dropped(self) -> int:
        return 0 if self._sequence is None else self._sequence.num_dropped

    def _note(self, error: Exception) -> None:
        is_bug = not isinstance(error, EdgeError)
        logger.warning("no more drafts for a request: %s", error, exc_info=is_bug)
        self.failure = f"drafting failed: {error!r}" if is_bug else str(error)


def _agreed_end(drafted: Sequence[int], position: int, tokens: Sequence[int]) -> int:
    """The end (exclusive) of what `drafted`, the whole sequence, shares with `tokens` at `position`."""
    end = position
    for token in tokens:
        if end >= len(drafted) or drafted[end] != token:
            break
        end += 1
    return end
