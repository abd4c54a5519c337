"""A `Generator` without models or network: for tests, demos and front-end work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edge_agent.api import (
    AnswerContinued,
    AnswerDrafts,
    AnswerEvent,
    AnswerHead,
    AnswerText,
    AskRequest,
    FinishReason,
    ForwardedAnswer,
    GenerationChunk,
    GenerationRequest,
    GenerationStats,
    Route,
    Source,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import CloudUnreachable, DraftAnswers
from pipesd_vllm.wire import TokenLogprobs

__all__ = [
    "CHAT_ML",
    "FakeForwardedAnswer",
    "FakeGenerator",
    "GenerationRecord",
    "Script",
    "fake_tokenizer_bundle",
]

CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def fake_tokenizer_bundle(
    texts: Sequence[str], chat_template: str | None = CHAT_ML, num_merges: int = 64
) -> TokenizerBundle:
    """A byte-level BPE tokenizer trained on `texts`: about `num_merges` merges, every byte a token.

    Token 0 is `<|endoftext|>`, 1 `<|im_start|>`, 2 `<|im_end|>`; 0 and 2 end a generation.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(special) + num_merges,
        initial_alphabet=alphabet,
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {"bos_token": special[0], "eos_token": special[2]}
    return TokenizerBundle(tokenizer.to_str(), chat_template, names, (0, 2))


@dataclass(frozen=True, slots=True)
class Script:
    """What one generation does.

    Gives `token_ids`, `chunk_tokens` at a time, waiting `first_delay_s` before the first chunk and
    `delay_s` before each later one; from token `gate_at` on, `gate` (if any) has to be set, too. Raises
    `error` (if any) instead of the chunk after the first `error_after` tokens. A request's `max_tokens` cuts
    it short, as a real generation.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason = FinishReason.STOP
    chunk_tokens: int = 1
    first_delay_s: float = 0.0
    delay_s: float = 0.0
    gate: asyncio.Event | None = None
    gate_at: int = 1
    error: Exception | None = None
    error_after: int = 0
    route: Route = Route.COLLABORATIVE
    route_reason: str = "default"
    unverified_after: int | None = None
    """From this token on the draft model's own; all on the route `local`."""
    wrong_every: int = 0
    """Of the drafts that are shown before each chunk, every so many end with a wrong one; 0: none does."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the statistics, from the start on."""


@dataclass(slots=True)
class GenerationRecord:
    """A generation that was asked for, and how it went."""

    request: GenerationRequest | AskRequest
    stats: GenerationStats
    finished: bool = False
    """It gave its last chunk or its scripted error."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has ended, finished or closed by its reader."""

    @property
    def closed_early(self) -> bool:
        """Whether the reader closed it before its end."""
        return self.ended.is_set() and not self.finished


class FakeGenerator:
    """Follows a script and records what it was asked.

    `script` is used for every request, or asked for one each time. `unreachable`, while set,
    is raised by `target`, `tokenizer` and `forward`. `records` has one entry a generation, oldest first;
    `asked` is set with the first. `cloud` is the server's own API; `forwarded` is what it was sent, asked for
    or passed on.
    """

    def __init__(
        self,
        target: TargetInfo,
        tokenizer: TokenizerBundle,
        script: Script | Callable[[GenerationRequest | AskRequest], Script],
        health: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._tokenizer = tokenizer
        self._script = script
        self._health = dict(health or {"status": "ok"})
        self.unreachable: Exception | None = None
        self.records: list[GenerationRecord] = []
        self.asked = asyncio.Event()
        self.cloud: Callable[[str, Mapping[str, Any]], ForwardedAnswer] = _no_cloud
        self.forwarded: list[tuple[str, dict[str, Any]]] = []
        self.closed = False

    async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
        self._reach(offline)
        return self._target

    async def tokenizer(self, *, offline: bool = False) -> TokenizerBundle:
        self._reach(offline)
        return self._tokenizer

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        script, record = self._start(request, request.sampling.seed)
        limits = _Limits(request.sampling.max_tokens, request.sampling.logprobs)
        return _play(_chunks(script, record, limits), script, record)

    def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:
        """The script as a server's API words it, for one answer; with the route `local` `DraftAnswers`.

        What is not verified any more comes after `AnswerContinued`. Where `cloud` is scripted, that answers.
        """
        self._reach(offline=False)
        body = msgspec.json.decode(request.body)
        script, record = self._start(request, body.get("seed"))
        self.forwarded.append((request.path, body))
        if self.cloud is not _no_cloud and script.error is None:
            return _play(_as_scripted(self.cloud(request.path, body), record.stats), script, record)
        texts = _Texts(self._tokenizer, request, body, self._target.model)
        if (refusal := _refusal(texts, self._target.max_model_len)) is not None:
            return _play(_as_scripted(refusal, record.stats), script, record)
        return _play(_answer(script, record, texts), script, record)

    def _start(
        self, request: GenerationRequest | AskRequest, seed: int | None
    ) -> tuple[Script, GenerationRecord]:
        script = self._script(request) if callable(self._script) else self._script
        stats = GenerationStats(route=script.route, route_reason=script.route_reason, seed=seed)
        stats.started_s = asyncio.get_running_loop().time()
        for name, value in script.figures.items():
            setattr(stats, name, value)
        record = GenerationRecord(request, stats)
        self.records.append(record)
        self.asked.set()
        return script, record

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        self._reach(offline=False)
        self.asked.set()
        decoded = msgspec.json.decode(body)
        self.forwarded.append((path, decoded))
        return self.cloud(path, decoded)

    async def health(self) -> dict[str, str]:
        return dict(self._health)

    async def close(self) -> None:
        self.closed = True

    def _reach(self, offline: bool) -> None:
        if self.unreachable is not None and not offline:
            raise self.unreachable


def _no_cloud(path: str, body: Mapping[str, Any]) -> ForwardedAnswer:
    raise CloudUnreachable("no server's API was scripted")


_NO_LIMIT: Final = 1 << 30
_EventT = TypeVar("_EventT", bound=AnswerEvent)


@dataclass(frozen=True, slots=True)
class _Limits:
    max_tokens: int
    num_alternatives: int | None = None


async def _play(
    events: AsyncIterator[_EventT], script: Script, record: GenerationRecord
) -> AsyncIterator[_EventT]:
    try:
        async for event in events:
            yield event
        record.finished = True
    except Exception as error:
        record.finished = error is script.error
        raise
    finally:
        record.ended.set()


async def _chunks(
    script: Script, record: GenerationRecord, limits: _Limits
) -> AsyncIterator[GenerationChunk]:
    limit = limits.max_tokens
    token_ids = script.token_ids[:limit]
    # A script of exactly `max_tokens` tokens ends for its own reason.
    reason = FinishReason.LENGTH if len(script.token_ids) > limit else script.finish_reason
    delay_s = script.first_delay_s
    for start in range(0, max(len(token_ids), 1), script.chunk_tokens):
        await asyncio.sleep(delay_s)
        delay_s = script.delay_s
        if script.gate is not None and start >= script.gate_at:
            await script.gate.wait()
        if script.error is not None and start >= script.error_after:
            raise script.error
        tokens = token_ids[start : start + script.chunk_tokens]
        sources = _sources(script, start, len(tokens))
        _count(record.stats, len(tokens))
        record.stats.unverified_tokens += sources.count(Source.UNVERIFIED)
        is_last = start + script.chunk_tokens >= len(token_ids)
        logprobs = _logprobs(tokens, limits.num_alternatives, sources)
        record.finished = is_last
        yield GenerationChunk(tokens, reason if is_last else None, record.stats, sources, logprobs)


async def _answer(script: Script, record: GenerationRecord, texts: _Texts) -> AsyncIterator[AnswerEvent]:
    if script.route is Route.LOCAL:
        raise DraftAnswers(script.route_reason, CloudUnreachable("the scripted verifier is away"))
    has_begun = is_local = False
    async for chunk in _chunks(script, record, _Limits(texts.max_tokens)):
        if not has_begun:
            has_begun = True
            yield AnswerHead(200, record.stats)
        if not chunk.verified and not is_local:
            is_local = True
            yield AnswerContinued(texts.prompt, tuple(texts.token_ids))
        yield chunk
        for piece in _singly(chunk) if texts.names_tokens else (chunk,):
            if not is_local and (data := texts.add(piece)):
                yield AnswerText(data)
        if texts.shows_drafts and not is_local:
            yield _drafts(script, len(texts.token_ids))
        if texts.stop_string is not None:
            return


def _drafts(script: Script, start: int) -> AnswerDrafts:
    """Those of the next chunk, with one of them wrong where the script says so."""
    drafts = list(script.token_ids[start : start + script.chunk_tokens])
    if drafts and script.wrong_every and start // script.chunk_tokens % script.wrong_every == 0:
        drafts[-1] = script.token_ids[0]
    return AnswerDrafts(tuple(drafts))


def _singly(chunk: GenerationChunk) -> Iterator[GenerationChunk]:
    """The chunk token by token, as the server words a session's answer."""
    for place, token in enumerate(chunk.token_ids):
        is_last = place + 1 == len(chunk.token_ids)
        yield replace(
            chunk,
            token_ids=(token,),
            finish_reason=chunk.finish_reason if is_last else None,
            sources=chunk.sources[place : place + 1],
            logprobs=None if chunk.logprobs is None else chunk.logprobs[place : place + 1],
        )


def _refusal(texts: _Texts, max_model_len: int) -> ForwardedAnswer | None:
    """As vLLM words it, for a prompt or a limit beyond the context."""
    if len(texts.prompt) >= max_model_len:
        param, message = "input_tokens", f"This model's maximum context length is {max_model_len} tokens."
    elif max_model_len < texts.max_tokens < _NO_LIMIT:
        param, message = "max_tokens", f"max_tokens cannot be greater than max_model_len={max_model_len}."
    else:
        return None
    detail = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    return FakeForwardedAnswer(400, [msgspec.json.encode({"error": detail})])


async def _as_scripted(answer: ForwardedAnswer, stats: GenerationStats) -> AsyncIterator[AnswerEvent]:
    yield AnswerHead(answer.status, stats)
    try:
        async for part in answer.parts():
            yield AnswerText(part)
    finally:
        await answer.aclose()


class _Texts:
    """The bodies of a server's API for one answer."""

    def __init__(
        self, bundle: TokenizerBundle, request: AskRequest, body: Mapping[str, Any], model: str
    ) -> None:
        self._tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
        self._body = body
        self.names_tokens = bool(body.get("return_token_ids"))
        self.shows_drafts = request.shows_drafts
        self._is_chat = "chat" in request.path
        self._ends = bundle.eos_token_ids
        self._streamed = bool(body.get("stream"))
        kind = "chat.completion" if self._is_chat else "text_completion"
        kind += ".chunk" if self._is_chat and self._streamed else ""
        answer_id = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{request.request_id}"
        self._envelope = {"id": answer_id, "object": kind, "created": 1, "model": model}
        self._text = ""
        said = body.get("messages") or body.get("prompt")
        if self._is_chat or not isinstance(said, list):
            said = self._tokenizer.encode(str(said), add_special_tokens=False).ids
        self.prompt: tuple[int, ...] = tuple(said)
        self.token_ids: list[int] = []
        self.stop_string: str | None = None
        """That ended the answer, if one did."""
        stops = body.get("stop") or []
        self._stops: list[str] = [stops] if isinstance(stops, str) else stops
        self.max_tokens: int = body.get("max_tokens") or body.get("max_completion_tokens") or _NO_LIMIT

    def add(self, chunk: GenerationChunk) -> bytes:
        """What `chunk` adds to the body."""
        self.token_ids += chunk.token_ids
        shown = [token for token in self.token_ids if token not in self._ends]
        before, reason = self._text, chunk.finish_reason
        decoded = self._tokenizer.decode(shown, skip_special_tokens=False)
        self._text = decoded if reason is not None else decoded.rstrip("\ufffd")
        self.stop_string = next((stop for stop in self._stops if stop in self._text), None)
        if self.stop_string is not None:
            reason, self._text = FinishReason.STOP, self._text.partition(self.stop_string)[0]
        if not self._streamed:
            return b"" if reason is None else msgspec.json.encode(self._whole(reason))
        return b"".join(
            b"data: " + (event if isinstance(event, bytes) else msgspec.json.encode(event)) + b"\n\n"
            for event in self._events(chunk, self._text[len(before) :], reason)
        )

    def _events(
        self, chunk: GenerationChunk, text: str, reason: FinishReason | None
    ) -> Iterator[bytes | dict[str, Any]]:
        is_first = len(self.token_ids) == len(chunk.token_ids)
        if is_first and self._is_chat:
            yield self._event({"delta": {"role": "assistant", "content": ""}})
        said: dict[str, Any] = {"delta": {"content": text}} if self._is_chat else {"text": text}
        if self._body.get("return_token_ids"):
            said["token_ids"] = list(chunk.token_ids)
        finish = None if reason is None else str(reason)
        yield self._event(said | {"finish_reason": finish, "stop_reason": self.stop_string})
        if reason is not None:
            if (self._body.get("stream_options") or {}).get("include_usage"):
                yield {**self._envelope, "choices": [], "usage": self._usage()}
            yield b"[DONE]"

    def _event(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **self._envelope,
            "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **choice}],
        }

    def _whole(self, reason: FinishReason) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._text, "refusal": None}
        said = {"message": message} if self._is_chat else {"text": self._text}
        choice = {"index": 0, "logprobs": None, "finish_reason": str(reason), **said}
        choice["stop_reason"] = self.stop_string
        return {**self._envelope, "choices": [choice], "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        counts = {"prompt_tokens": len(self.prompt), "completion_tokens": len(self.token_ids)}
        return counts | {"total_tokens": sum(counts.values())}


def _logprobs(
    tokens: tuple[int, ...], num_alternatives: int | None, sources: tuple[Source, ...]
) -> tuple[TokenLogprobs, ...] | None:
    """-0.25 for each token, 1 less for each alternative: the ids that follow it."""
    if num_alternatives is None or Source.UNVERIFIED in sources:
        return None
    return tuple(
        TokenLogprobs(-0.25, 1, [(token + away, -0.25 - away) for away in range(num_alternatives)])
        for token in tokens
    )


def _sources(script: Script, start: int, num_tokens: int) -> tuple[Source, ...]:
    verified_to = 0 if script.route is Route.LOCAL else script.unverified_after
    if verified_to is not None and start >= verified_to:
        return (Source.UNVERIFIED,) * num_tokens
    return (*(Source.DRAFTED,) * (num_tokens - 1), *(Source.CORRECTED,) * min(num_tokens, 1))


def _count(stats: GenerationStats, num_tokens: int) -> None:
    """Book one verified chunk: all but its last token had been drafted, as in a perfect round."""
    now_s = asyncio.get_running_loop().time()
    if num_tokens and stats.first_token_s is None:
        stats.first_token_s = now_s
    stats.last_token_s = now_s
    stats.completion_tokens += num_tokens
    stats.longest_tokens = stats.completion_tokens  # there is one answer
    stats.target_passes += 1
    num_drafts = max(num_tokens - 1, 0)
    stats.draft_tokens_sent += num_drafts
    stats.draft_tokens_verified += num_drafts
    stats.draft_tokens_accepted += num_drafts
    stats.uplink_bytes += 8 + 4 * num_drafts


class FakeForwardedAnswer:
    """`ForwardedAnswer` with a given body, then `error` if any. With `hang` the body never ends."""

    def __init__(
        self,
        status: int,
        parts: Sequence[bytes],
        *,
        error: Exception | None = None,
        hang: bool = False,
    ) -> None:
        self.status = status
        self.closed = asyncio.Event()
        self._parts = parts
        self._error = error
        self._hang = hang

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        if self._hang:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed.set()
