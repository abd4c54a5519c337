"""Additions to the server's own bodies: fields that clients expect everywhere, and our extensions. Pure."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

import msgspec

from edge_agent.api import GenerationChunk, GenerationStats, Route, Source
from edge_agent.errors import CloudMisbehaved
from openai_gateway.chat_service import Json
from openai_gateway.local import both_names, extensions
from openai_gateway.target.drafts import ProvisionalText

__all__ = ["TargetChunks", "check_shape", "complete_whole"]
_TEXTS: Final = ("reasoning", "content", "text")
_IDS: Final = frozenset({"token_ids", "prompt_token_ids"})
_OF_ONE: Final = frozenset({"choices", "pipesd", "timings", "usage"})
"""What a chunk does not share with the others of its stream."""
_NOTHING: Final[Mapping[str, Any]] = {}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Said = msgspec.field(default_factory=_Said)
    delta: _Said = msgspec.field(default_factory=_Said)
    text: str | None = None


class _Answer(msgspec.Struct):
    """What is read of an answer, or of a chunk of one, here and in `translation/`."""

    choices: list[_Choice] | None = None


def check_shape(body: Mapping[str, Any]) -> None:
    """Raise `CloudMisbehaved` for an answer, or a chunk of one, in which nothing could be read."""
    try:
        msgspec.convert(body, _Answer)
    except msgspec.ValidationError as error:
        raise CloudMisbehaved(f"the server's answer is none: {error}") from error


def complete_whole(body: Json, stats: GenerationStats, extra: Mapping[str, Any] = _NOTHING) -> Json:
    """A whole answer with both names of reasoning, `extra` and our extensions; `stats` gets its counts."""
    for choice in _choices(body):
        _both_names(choice.get("message"))
    return {**body, **extra, **extensions(stats, _count(body.get("usage"), stats))}


class TargetChunks:
    """The chunks of one stream, in order, each with `extra`. `clock` as of `stats.started_s`.

    The server sends its token counts in a chunk after the one that ends a choice, so that one is held back.
    """

    def __init__(
        self,
        stats: GenerationStats,
        clock: Callable[[], float],
        extra: Mapping[str, Any] = _NOTHING,
        *,
        include_usage: bool,
        with_provenance: bool = False,
        keep_token_ids: bool = True,
        provisional: ProvisionalText | None = None,
    ) -> None:
        """`with_provenance`: each chunk says who wrote it; its `token_ids` name its tokens. `provisional`
        shows drafts as well, and needs that."""
        self._provisional = provisional
        self.stats = stats
        self.last: Json | None = None
        """The chunk that was given last."""
        self.delivered: Counter[str] = Counter()
        """Characters given so far of each text: `content`, `reasoning`, `text`."""
        self._clock = clock
        self._extra = extra
        self._include_usage = include_usage
        self._with_provenance = with_provenance
        self._keep_token_ids = keep_token_ids
        self._sources: defaultdict[int, deque[Source]] = defaultdict(deque)
        self._calls: set[tuple[int, int]] = set()
        self._held: Json | None = None
        self._num_prompt_tokens: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether a choice has ended, and what says so is held back."""
        return self._held is not None

    def committed(self, chunk: GenerationChunk) -> None:
        """Tokens that the coming chunks are made of."""
        if self._with_provenance:
            sources = chunk.sources or (Source.CORRECTED,) * len(chunk.token_ids)
            self._sources[chunk.stream].extend(sources)
        if self._provisional is not None and not chunk.stream:
            self._provisional.committed(chunk.token_ids)

    def drafts(self) -> Json | None:
        """A chunk that says what is drafted now, if that is news."""
        if self._provisional is None or self.has_ended:
            return None
        envelope = {name: value for name, value in (self.last or {}).items() if name not in _OF_ONE}
        return self._provisional.chunk(envelope, self.stats)

    def push(self, chunk: Json) -> Iterator[Json]:
        """The chunks that the client gets after `chunk` has come.

        A usage chunk that the client did not ask for is left out: some clients fail on empty choices.
        """
        self._num_prompt_tokens = _count(chunk.get("usage"), self.stats) or self._num_prompt_tokens
        yield from self.flush()
        chunk |= self._extra
        if not chunk.get("choices"):
            if self._include_usage:
                yield self._with_stats(chunk)
            return
        if not self._include_usage:
            chunk.pop("usage", None)
        for choice in _choices(chunk):
            self._complete_choice(chunk, choice)
        if self._with_provenance and not self._keep_token_ids:
            for part in (chunk, *_choices(chunk)):
                part.update(dict.fromkeys(_IDS & part.keys()))
        if any(choice.get("finish_reason") is not None for choice in _choices(chunk)):
            self._held = chunk
        else:
            self.last = chunk
            yield chunk

    def flush(self) -> Iterator[Json]:
        """The chunk that was held back, if any, with the statistics as of now. No counts will come for it."""
        held, self._held = self._held, None
        if held is not None:
            self.last = held
            yield self._with_stats(held)

    def _with_stats(self, chunk: Json) -> Json:
        own = chunk.get("pipesd") or {}
        told = extensions(self.stats, self._num_prompt_tokens)
        return {**chunk, **told, "pipesd": {**told["pipesd"], **own}}

    def _complete_choice(self, chunk: Json, choice: Json) -> None:
        delta = choice.get("delta")
        if self.stats.route is Route.CLOUD and (choice.get("text") or _says_something(delta)):
            self.stats.last_token_s = self._clock()
            if self.stats.first_token_s is None:
                self.stats.first_token_s = self.stats.last_token_s
        said = delta if isinstance(delta, dict) else choice
        texts = {name: text for name in _TEXTS if isinstance(text := said.get(name), str) and text}
        self.delivered.update({name: len(text) for name, text in texts.items()})
        if self._with_provenance and (token_ids := choice.get("token_ids")):
            spans = self._spans(int(choice.get("index", 0)), len(token_ids), "".join(texts.values()))
            chunk["pipesd"] = {"verified": True, "provenance": spans}
            if self._provisional is not None and not choice.get("index"):
                self._provisional.given(len(token_ids))
        _both_names(delta)
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        for position, call in enumerate(calls or ()):
            self._complete_call(int(choice.get("index", 0)), position, call)

    def _spans(self, choice: int, num_tokens: int, text: str) -> list[Json]:
        """Runs of one source; the text is the last one's: it came with the last token."""
        sources = self._sources[choice]
        taken = [sources.popleft() if sources else Source.CORRECTED for _ in range(num_tokens)]
        spans = [{"source": source, "tokens": len(list(run)), "text": ""} for source, run in groupby(taken)]
        spans[-1]["text"] = text
        return spans

    def _complete_call(self, choice: int, position: int, call: Json) -> None:
        """Give every delta of a call its `index`, and the first also `id`, `type` and a name."""
        key = (choice, call.setdefault("index", position))
        if key in self._calls:
            return
        self._calls.add(key)
        call["id"] = call.get("id") or f"call_{uuid.uuid4().hex}"
        call["type"] = call.get("type") or "function"
        function = call["function"] = call.get("function") or {}
        function["name"] = function.get("name") or ""
        function.setdefault("arguments", "")


def _choices(body: Mapping[str, Any]) -> list[Json]:
    return [choice for choice in body.get("choices") or () if isinstance(choice, dict)]


def _says_something(delta: object) -> bool:
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _both_names(message: object) -> None:
    """Add both names of reasoning: some clients read `reasoning`, others `reasoning_content`."""
    if not isinstance(message, dict):
        return
    message |= both_names(message.get("reasoning") or message.get("reasoning_content") or "")


def _count(usage: object, stats: GenerationStats) -> int | None:
    """Write the server's token counts to `stats`; returns the prompt's."""
    if not isinstance(usage, dict):
        return None
    stats.completion_tokens = usage.get("completion_tokens") or stats.completion_tokens
    return usage.get("prompt_tokens")
