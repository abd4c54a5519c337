"""The target's tokenizer and chat template, loaded once and used for every request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
from tokenizers import Tokenizer

from edge_agent.api import TokenizerBundle
from openai_gateway.errors import InvalidRequest
from openai_gateway.local.schema import ChatRequest
from openai_gateway.local.text.conversation import render_chat
from openai_gateway.local.text.detokenizer import Detokenizer
from openai_gateway.local.text.template import ChatTemplate

__all__ = ["TargetText", "TargetTextCache"]

LONG_PROMPT_CHARACTERS = 4096
"""From here on (some milliseconds of work) a prompt is tokenised in a thread."""


class TargetText:
    """Text to tokens and back, for one target."""

    def __init__(self, bundle: TokenizerBundle) -> None:
        self._tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
        # A tokenizer.json may carry training settings that would cut prompts short.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.added_ids = {token.content: token_id for token_id, token in added.items()}
        """Tokens that a text may name, such as those of a chat template, and their ids."""
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._space = _space_marker(bundle.tokenizer_json)
        self._decode = partial(self._tokenizer.decode, skip_special_tokens=False)
        self.eos_token_ids = frozenset(bundle.eos_token_ids)
        self._bundle = bundle
        self._template_source = bundle.chat_template
        self._template: ChatTemplate | None = None

    async def encode_prompt(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a raw prompt, with the special tokens the model starts with."""
        return await self._encode(prompt, add_special_tokens=True)

    async def encode_chat(self, request: ChatRequest) -> tuple[int, ...]:
        """Token ids of the rendered conversation; the template writes the special tokens itself.

        Raises `InvalidRequest` if the model has no template or its template refuses the messages.
        """
        return await self._encode(render_chat(request, self.template()), add_special_tokens=False)

    def template(self) -> ChatTemplate:
        """The chat template, compiled at the first use. Raises `InvalidRequest` if there is none."""
        if self._template is None:
            if self._template_source is None:
                raise InvalidRequest(
                    "This model has no chat template: use /v1/completions, or serve a chat model.",
                    param="messages",
                    code="no_chat_template",
                )
            self._template = ChatTemplate(
                self._template_source,
                self._bundle.special_tokens,
                content_format=self._bundle.content_format,
                variables=self._bundle.template_variables,
            )
        return self._template

    def detokenizer(self, prompt_token_ids: Sequence[int]) -> Detokenizer:
        """A fresh detokeniser for what follows the prompt; special tokens have no text."""
        return Detokenizer(self._decode, self._special_ids, prompt_token_ids)

    def text_of(self, token_ids: list[int]) -> str:
        """The text of tokens taken by themselves, special ones' too.

        A decoder that drops the space at the beginning of a text would drop it from every single token.
        """
        text: str = self._decode(token_ids)
        if self._space is None or not token_ids:
            return text
        token = self._tokenizer.id_to_token(token_ids[0]) or ""
        num_spaces = len(token) - len(token.lstrip(self._space))
        return " " * (num_spaces - (len(text) - len(text.lstrip(" ")))) + text

    async def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        if len(text) < LONG_PROMPT_CHARACTERS:
            return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        return await asyncio.to_thread(self._encode_unlocked, text, add_special_tokens)

    def _encode_unlocked(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        # The batch call releases the interpreter lock while it works; `encode` does not.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)


def _space_marker(tokenizer_json: str) -> str | None:
    """What stands for a space in the vocabulary, where decoding drops the first one (SentencePiece's way)."""
    outer = msgspec.json.decode(tokenizer_json, type=_Layout).pre_tokenizer
    steps = (outer, *outer.pretokenizers) if outer is not None else ()
    return next((step.replacement for step in steps if step.type == "Metaspace"), None)


class _Step(msgspec.Struct):
    type: str = ""
    replacement: str = "\u2581"
    pretokenizers: list[_Step] = []


class _Layout(msgspec.Struct):
    pre_tokenizer: _Step | None = None


class TargetTextCache:
    """Keeps the `TargetText` of the bundle seen last."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._bundle: TokenizerBundle | None = None
        self._text: TargetText | None = None

    async def load(self, bundle: TokenizerBundle) -> TargetText:
        """The `TargetText` of `bundle`; building one takes up to a second, in a thread."""
        async with self._lock:
            if self._text is None or (bundle is not self._bundle and bundle != self._bundle):
                self._text = await asyncio.to_thread(TargetText, bundle)
                self._bundle = bundle
            return self._text
