"""Masks for structured output: drafts keep to the form an answer must have. By llguidance; masks roll back.

The server enforces the form with its own backend. Where the two disagree (white space, dialects of
grammars) a draft is rejected and nothing else happens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from edge_agent.api import TokenizerBundle
from pipesd_vllm.wire import Structure, StructureKind

__all__ = ["AfterReasoning", "GrammarMask", "StructureMasks", "reasoning_has_ended"]

logger = logging.getLogger("pipesd.draft")

_ANY_OBJECT: Final = '{"type": "object"}'
_JSON: Final = (StructureKind.JSON_SCHEMA, StructureKind.JSON_OBJECT)
_MAX_BLANKS: Final = 8
"""Tokens of white space in a row. JSON allows any number between its parts, and small models do not stop."""


class StructureMasks:
    """Makes masks for one target. Building it reads the whole vocabulary: a second or so, off the loop."""

    def __init__(self, bundle: TokenizerBundle) -> None:
        """Raises `ValueError` for a tokenizer that llguidance cannot read."""
        ends = list(bundle.eos_token_ids) or None
        self._tokenizer = LLTokenizer(bundle.tokenizer_json, eos_token=ends)

    @cached_property
    def _blank(self) -> NDArray[np.bool_]:
        """Of each token whether it is white space."""
        texts = (self._tokenizer.decode_bytes([token]) for token in range(self._tokenizer.vocab_size))
        return np.array([text.isspace() for text in texts])

    def mask(self, structure: Structure, prompt_length: int) -> GrammarMask | None:
        """A mask for a sequence with `prompt_length` prompt tokens; None if the form is not understood.

        Why not is left out of the log: the parsers quote the client's text.
        """
        try:
            matcher = LLMatcher(self._tokenizer, _grammar(structure), log_level=0)
        except Exception as error:  # parsers at work on a client's text: any fault means no mask
            logger.warning("drafting without the answer's form: %s", type(error).__name__)
            return None
        if matcher.is_error():
            logger.warning("drafting without the answer's form: no mask for this %s", structure.kind)
            return None
        blank = self._blank if structure.kind in _JSON else None
        return GrammarMask(matcher, prompt_length, self._tokenizer.vocab_size, blank)


class GrammarMask:
    """A `TokenMask` over `num_tokens` tokens; the sequence begins with `prompt_length` tokens of prompt.

    A text that has left the grammar, as the server's backend may let it, is no longer masked. `blank` says
    of each token whether it is white space; after a few of them in a row no more are allowed.
    """

    def __init__(
        self, matcher: LLMatcher, prompt_length: int, num_tokens: int, blank: NDArray[np.bool_] | None = None
    ) -> None:
        self._matcher = matcher
        self._prompt_length = prompt_length
        self._num_tokens = num_tokens
        self._blank = blank
        self._num_consumed = 0
        self._words = np.zeros((num_tokens + 31) // 32, dtype=np.int32)

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        new = list(tokens[self._prompt_length + self._num_consumed :])
        num_accepted = self._matcher.try_consume_tokens(new)
        self._num_consumed += num_accepted
        if num_accepted < len(new) or self._matcher.is_error():
            return
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._num_tokens]
        if self._blank is not None and self._has_blanks(tokens) and (bits > self._blank).any():
            bits[self._blank] = 0
        scores[: bits.size][bits[: scores.size] == 0] = -np.inf
        scores[bits.size :] = -np.inf

    def _has_blanks(self, tokens: Sequence[int]) -> bool:
        assert self._blank is not None
        last = [*tokens[max(self._prompt_length, len(tokens) - _MAX_BLANKS) :]]
        return len(last) == _MAX_BLANKS and bool(self._blank[last].all())

    def restart(self, prompt_length: int) -> None:
        """Start again, for an answer that begins after `prompt_length` tokens."""
        self._matcher.reset()
        self._prompt_length, self._num_consumed = prompt_length, 0

    def holds(self, tokens: Sequence[int]) -> bool:
        """Whether the answer in a new mask's `tokens`, all of the sequence, keeps to the form so far."""
        answer = list(tokens[self._prompt_length :])
        return self._matcher.validate_tokens(answer) == len(answer)

    def rewind(self, length: int) -> None:
        surplus = self._num_consumed - max(0, length - self._prompt_length)
        if surplus > 0:
            self._matcher.rollback(surplus)
            self._num_consumed -= surplus


class AfterReasoning:
    """A `TokenMask` for models that think first: `form` holds after the answer's first token `end`.

    As in vLLM with a reasoning parser, what comes before `end` is free.

    The sequence begins with `prompt_length` tokens of prompt. `form` must be new.
    """

    def __init__(self, form: GrammarMask, end: int, prompt_length: int) -> None:
        self._form = form
        self._end = end
        self._prompt_length = prompt_length
        self._num_searched = prompt_length
        self._begin: int | None = None

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        if self._has_begun(tokens):
            self._form.apply(scores, tokens)

    def holds(self, tokens: Sequence[int]) -> bool:
        """As `GrammarMask.holds`; thoughts have no form."""
        return not self._has_begun(tokens) or self._form.holds(tokens)

    def rewind(self, length: int) -> None:
        if self._begin is not None and length >= self._begin:
            self._form.rewind(length)
            return
        self._begin = None
        self._num_searched = max(self._prompt_length, min(self._num_searched, length))

    def _has_begun(self, tokens: Sequence[int]) -> bool:
        if self._begin is None:
            place = next((i for i in range(self._num_searched, len(tokens)) if tokens[i] == self._end), None)
            if place is None:
                self._num_searched = len(tokens)
                return False
            self._begin = place + 1
            self._form.restart(self._begin)
        return True


def reasoning_has_ended(prompt: Sequence[int], start: int | None, end: int) -> bool:
    """Whether the prompt's last mark ends the reasoning (vLLM's `is_reasoning_end`)."""
    return next((token == end for token in reversed(prompt) if token in (start, end)), False)


def _grammar(structure: Structure) -> str:
    """In llguidance's terms. Raises whatever its parsers raise."""
    match structure.kind:
        case StructureKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(structure.value)
        case StructureKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema(_ANY_OBJECT)
        case StructureKind.REGEX:
            return LLMatcher.grammar_from_regex(structure.value)
        case StructureKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(any_to_lark(structure.value))
        case StructureKind.CHOICE:
            choices = msgspec.json.decode(structure.value, type=list[str])
            quoted = " | ".join(msgspec.json.encode(choice).decode() for choice in choices)
            return LLMatcher.grammar_from_lark(f"start: {quoted}")
