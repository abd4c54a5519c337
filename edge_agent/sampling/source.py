"""Which picker a request is drafted with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from tokenizers import Tokenizer

from edge_agent.drafter import TokenPicker
from edge_agent.errors import EdgeError
from edge_agent.generation import GenerationRequest, SamplingSettings, TokenizerBundle
from edge_agent.sampling.adjustment import adjusts_logits
from edge_agent.sampling.bad_words import BadWordMask, bad_word_tokens
from edge_agent.sampling.greedy import GreedyPicker
from edge_agent.sampling.mask import Masks, TokenMask
from edge_agent.sampling.sampled import SampledPicker
from edge_agent.sampling.structure import StructureMasks
from pipesd_vllm.protocol import Structure

__all__ = ["Pickers"]

logger = logging.getLogger("pipesd.draft")


class Pickers:
    """Makes pickers; `tokenizer` gives the target's tokenizer, where one can be had.

    Without it drafts do not know which tokens end a text (for `min_tokens`), which ones make up bad words,
    nor how to keep to a form: they are thrown away more often, and nothing else changes.
    """

    def __init__(self, tokenizer: Callable[[], Awaitable[TokenizerBundle]] | None = None) -> None:
        self._tokenizer = tokenizer
        self._masks: tuple[TokenizerBundle, StructureMasks] | None = None
        self._encoder: tuple[TokenizerBundle, Tokenizer] | None = None

    async def picker(self, request: GenerationRequest, bundle: TokenizerBundle | None = None) -> TokenPicker:
        """A new picker for one sequence that begins with the request's prompt.

        With a `bundle` at hand nobody is asked for one.
        """
        settings = request.sampling
        is_masked = settings.structure is not None or bool(settings.bad_words)
        if settings.temperature == 0 and not is_masked and not adjusts_logits(settings):
            return GreedyPicker()
        prompt_length = request.prompt_length
        if bundle is None and (is_masked or settings.min_tokens):
            bundle = await self._bundle()
        if bundle is None:
            return SampledPicker(settings, prompt_length)
        mask = None
        if is_masked:
            mask = await asyncio.to_thread(self._mask, bundle, settings, prompt_length)
        return SampledPicker(settings, prompt_length, bundle.eos_token_ids, mask)

    def _mask(
        self, bundle: TokenizerBundle, settings: SamplingSettings, prompt_length: int
    ) -> TokenMask | None:
        """In a thread: reading a vocabulary and compiling a schema take their time."""
        masks: list[TokenMask] = []
        if settings.bad_words and (words := self._bad_words(bundle, settings.bad_words)):
            masks.append(BadWordMask(words, prompt_length))
        if settings.structure is not None:
            form = self._form(bundle, settings.structure, prompt_length)
            masks += [] if form is None else [form]
        return Masks(masks) if masks else None

    def _bad_words(self, bundle: TokenizerBundle, words: Sequence[str]) -> list[tuple[int, ...]]:
        if self._encoder is None or self._encoder[0] is not bundle:
            try:
                self._encoder = bundle, Tokenizer.from_str(bundle.tokenizer_json)
            except Exception as error:  # the library raises no narrower class
                logger.warning("drafting without regard to bad words: %s", error)
                return []
        tokenizer = self._encoder[1]
        return bad_word_tokens(words, lambda text: tokenizer.encode(text, add_special_tokens=False).ids)

    def _form(self, bundle: TokenizerBundle, structure: Structure, prompt_length: int) -> TokenMask | None:
        if self._masks is None or self._masks[0] is not bundle:
            try:
                self._masks = bundle, StructureMasks(bundle)
            except ValueError as error:
                logger.warning("drafting without the answer's form: %s", error)
                return None
        return self._masks[1].mask(structure, prompt_length)

    async def _bundle(self) -> TokenizerBundle | None:
        if self._tokenizer is None:
            return None
        try:
            return await self._tokenizer()
        except EdgeError as error:
            logger.warning("drafting without the target's tokenizer: %s", error)
            return None
