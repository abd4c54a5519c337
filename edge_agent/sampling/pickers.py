"""Chooses the picker that a request is drafted with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, Sampling, TokenizerBundle
from edge_agent.errors import EdgeError
from edge_agent.sampling.adjustment import adjusts_logits
from edge_agent.sampling.bad_words import BadWordMask, bad_word_tokens
from edge_agent.sampling.greedy import GreedyPicker
from edge_agent.sampling.picker import TokenMask, TokenPicker
from edge_agent.sampling.sampled import SampledPicker
from edge_agent.sampling.structure import (
    AfterReasoning,
    GrammarMask,
    StructureMasks,
    reasoning_has_ended,
)
from pipesd_vllm.wire import Structure

__all__ = ["Choice", "Pickers"]

_BAD_WORDS: Final = "bad_words"
_FORM: Final = "response_format"

logger = logging.getLogger("pipesd.draft")


class Choice(NamedTuple):
    """A picker, and the parameters it cannot follow, or not in full, by the API's names."""

    picker: TokenPicker
    ignored: tuple[str, ...] = ()


class Pickers:
    """Makes pickers; `tokenizer` gives the target's tokenizer, where one can be had.

    Without it drafts do not know which tokens end a text (for `min_tokens`), which ones make up bad words,
    nor how to keep to a form: they are thrown away more often, and nothing else changes.
    """

    def __init__(self, tokenizer: Callable[[], Awaitable[TokenizerBundle]] | None = None) -> None:
        self._tokenizer = tokenizer
        self._masks: tuple[TokenizerBundle, StructureMasks] | None = None
        self._encoder: tuple[TokenizerBundle, Tokenizer] | None = None

    async def picker(self, request: GenerationRequest, *, fp64_noise: bool = False) -> TokenPicker:
        """`choose`, for drafts that the server verifies: what a picker ignores costs acceptance only."""
        return (await self.choose(request, fp64_noise=fp64_noise)).picker

    async def choose(
        self, request: GenerationRequest, bundle: TokenizerBundle | None = None, *, fp64_noise: bool = False
    ) -> Choice:
        """A new picker for one sequence that begins with the request's prompt.

        `bundle`: the target's tokenizer, if it is at hand; else `tokenizer` is asked for it. `fp64_noise`:
        as the target draws (`Welcome.draws_in_fp64`).
        """
        settings = request.sampling
        masked = _masked(settings)
        if settings.temperature == 0 and not masked and not adjusts_logits(settings):
            return Choice(GreedyPicker())
        if bundle is None and (masked or settings.min_tokens):
            bundle = await self._bundle()
        if bundle is None:
            return Choice(SampledPicker(settings, request.prompt_length, fp64_noise=fp64_noise), masked)
        masks, ignored = await asyncio.to_thread(self._masks_for, bundle, request) if masked else ((), ())
        mask = _Masks(masks) if masks else None
        ends = bundle.eos_token_ids
        picker = SampledPicker(settings, request.prompt_length, ends, mask, fp64_noise=fp64_noise)
        return Choice(picker, ignored)

    def _masks_for(
        self, bundle: TokenizerBundle, request: GenerationRequest
    ) -> tuple[Sequence[TokenMask], tuple[str, ...]]:
        """And `Choice.ignored`. In a thread: reading a vocabulary and compiling a schema take their time."""
        masks: list[TokenMask] = []
        ignored: list[str] = []
        if request.sampling.bad_words:
            words = self._bad_words(bundle, request.sampling.bad_words)
            masks.append(BadWordMask(chain.from_iterable(words), request.prompt_length))
            if not all(words):
                ignored.append(_BAD_WORDS)
        if request.sampling.structure is not None:
            form = self._form(bundle, request, request.sampling.structure)
            masks += [] if form is None else [form]
            if form is None or not form.holds(request.prompt_token_ids):
                ignored.append(_FORM)
        return masks, tuple(ignored)

    def _bad_words(self, bundle: TokenizerBundle, words: Sequence[str]) -> list[list[tuple[int, ...]]]:
        """Each word's tokens, in the ways it can be written; none for one that cannot be found."""
        tokenizer = self._tokens(bundle)
        if tokenizer is None:
            return [[] for _ in words]
        return [
            bad_word_tokens([word], lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
            for word in words
        ]

    def _form(
        self, bundle: TokenizerBundle, request: GenerationRequest, structure: Structure
    ) -> GrammarMask | AfterReasoning | None:
        if self._masks is None or self._masks[0] is not bundle:
            try:
                self._masks = bundle, StructureMasks(bundle)
            except ValueError as error:
                logger.warning("drafting without the answer's form: %s", error)
                return None
        form = self._masks[1].mask(structure, request.prompt_length)
        marks = request.structure_after
        if form is None or marks is None or (tokenizer := self._tokens(bundle)) is None:
            return form
        start, end = map(tokenizer.token_to_id, marks)
        if end is None or reasoning_has_ended(request.prompt_token_ids[: request.prompt_length], start, end):
            return form
        return AfterReasoning(form, end, request.prompt_length)

    def _tokens(self, bundle: TokenizerBundle) -> Tokenizer | None:
        if self._encoder is None or self._encoder[0] is not bundle:
            try:
                self._encoder = bundle, Tokenizer.from_str(bundle.tokenizer_json)
            except Exception as error:  # the library raises no narrower class
                logger.warning("drafting without the target's tokens: %s", error)
                return None
        return self._encoder[1]

    async def _bundle(self) -> TokenizerBundle | None:
        if self._tokenizer is None:
            return None
        try:
            return await self._tokenizer()
        except EdgeError as error:
            logger.warning("drafting without the target's tokenizer: %s", error)
            return None


class _Masks:
    """Several masks as one."""

    def __init__(self, masks: Sequence[TokenMask]) -> None:
        self._masks = masks

    def apply(self, scores: NDArray[np.float32], tokens: Sequence[int]) -> None:
        for mask in self._masks:
            mask.apply(scores, tokens)

    def rewind(self, length: int) -> None:
        for mask in self._masks:
            mask.rewind(length)


def _masked(settings: Sampling) -> tuple[str, ...]:
    """The parameters of a request that need masks."""
    form = () if settings.structure is None else (_FORM,)
    return (*((_BAD_WORDS,) if settings.bad_words else ()), *form)
