"""The one seam under vLLM's own handlers: their engine client's `generate`.

`SessionEngine` stands in for the engine client. While an `Ask` is answered, `CURRENT` is its `AskSession`:
a handler that asks for tokens gets those of resumable requests that the edge drafts for. The committed tokens
go to the edge and, one at a time, through vLLM's own output processor back to the handler: what it makes of
them depends on the tokens alone, not on which drafts were right, so an answer can be resumed chunk by chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from vllm.engine.protocol import EngineClient, StreamingInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_vllm import compat
from pipesd_vllm.api.admission import Tenant
from pipesd_vllm.api.edge_socket import EdgeLeft
from pipesd_vllm.api.metrics import Overhead
from pipesd_vllm.api.target_identity import adapter_identity
from pipesd_vllm.api.turn import Emit, Opening, Turn
from pipesd_vllm.api.turn_params import session_params, wire_sampling
from pipesd_vllm.api.validation import CloseConnection, RefuseTurn, engine_died, engine_stops
from pipesd_vllm.scheduling import Clock, OpenSession, pack_command
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    MAX_FRAME_BYTES,
    MAX_LOGPROBS,
    Ask,
    Begun,
    Commit,
    CommittedStream,
    Downstream,
    Mode,
    RefusalCode,
    Resume,
    TokenLogprobs,
    prompt_guess,
)

__all__ = ["CURRENT", "AskSession", "SessionEngine"]

CURRENT: ContextVar[AskSession | None] = ContextVar("pipesd_session", default=None)
"""The session of the exchange that is being answered; None for everybody else's requests."""

_MAX_PROMPT: Final = (MAX_FRAME_BYTES - (1 << 17)) // 5
"""Tokens of a prompt that fit a `Begun` whatever they are."""
_KINDS: Final = ("token", "multimodal")
"""Kinds of prompts that a resumable request can begin with."""
_PASSED_ON: Final = ("trace_headers", "priority", "data_parallel_rank", "session_id", "lora_request")
"""Keywords of `generate` that resumable requests take."""


class SessionEngine:
    """vLLM's engine client, but for `generate` inside an exchange."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        """The session's outputs if there is one, or else the engine's."""
        return (CURRENT.get() or self._engine).generate(*args, **kwargs)


class AskSession:
    """What answers one `Ask` with the target: its streams, and what the edge is told of them.

    `send` and `emit` take frames to the edge. `lost` is set to why nothing more can be said: then the
    generators wait to be closed, and what the handler still makes of it is nobody's.
    """

    def __init__(
        self,
        ask: Ask,
        engine: EngineClient,
        settings: ServerSettings,
        cache_salt: str,
        send: Callable[[Downstream], Awaitable[None]],
        emit: Emit,
        clock: Clock,
        new_id: Callable[[], str],
        tenant: Tenant | None = None,
    ) -> None:
        self.turns: dict[int, Turn] = {}
        """Those under way, by stream."""
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._ask = ask
        self._resume = ask.resume or Resume([])
        self._engine = engine
        self._settings = settings
        self._cache_salt = cache_salt
        self._send = send
        self._emit = emit
        self._clock = clock
        self._new_id = new_id
        self._tenant = tenant
        self._num_streams = 0
        self._undrafted_told = False
        self._tasks: set[asyncio.Task[None]] = set()

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As the engine client's: called once for each prompt, in order."""
        reason = undraftable(prompt, sampling_params, options)
        if reason:
            return self._generate_undrafted(reason, prompt, sampling_params, request_id, options)
        params = with_seed(sampling_params)
        first, self._num_streams = self._num_streams, self._num_streams + params.n
        return self._generate(first, prompt, params, options)

    @property
    def is_dead(self) -> bool:
        """Whether the engine has died: whatever the handler says of that, another server can answer."""
        return bool(self._engine.errored)

    async def close(self) -> None:
        """End what is under way, whether or not vLLM's handler has closed its generators."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- drafted ----------------------------------------------------------------------------

    async def _generate(
        self, first: int, prompt: Any, params: SamplingParams, options: Mapping[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        prompt_ids: list[int] = prompt["prompt_token_ids"]
        media = media_digest(prompt)
        is_other = self._resume.prompt not in ([], prompt_ids) or self._resume.media not in (b"", media)
        if first == 0 and is_other:
            await self._lose(RefuseTurn(RefusalCode.NOT_RESUMABLE, "the prompt has become another"))
        lora = options.get("lora_request")
        adapter = adapter_identity(lora.lora_path) if lora is not None else ""
        if self._ask.resume is not None and self._resume.adapter != adapter:
            await self._lose(RefuseTurn(RefusalCode.NOT_RESUMABLE, "the LoRA adapter has become another"))
        tokenizer = self._engine.renderer.get_tokenizer()
        text = compat.TextOutputs(tokenizer, self._new_id(), prompt_ids, prompt.get("prompt"), params)
        events: asyncio.Queue[tuple[int, Commit | Exception]] = asyncio.Queue()
        tasks: list[asyncio.Task[None] | None] = []
        for index in range(params.n):  # they take drafts from `Begun` on
            opening = self._opening(first + index, prompt, text.params[index], options)
            name = f"pipesd-{self._new_id()}"
            self.turns[first + index] = Turn(
                self._engine, name, opening, self._settings, self._clock, self._tenant
            )
        await self._begin(first, prompt_ids, text.params, adapter, media)
        try:
            for index in range(params.n):
                committed = self._committed(first + index)
                if committed.tokens and (committed.logprobs is None) != (params.logprobs is None):
                    message = "log-probabilities come with the tokens where they are asked for"
                    await self._lose(RefuseTurn(RefusalCode.NOT_RESUMABLE, message))
                for output in _replayed(text, index, committed):
                    yield output
                turn = self.turns[first + index]
                tasks.append(self._start(index, turn, events) if text.is_open(index) else None)
            while any(map(text.is_open, range(params.n))):
                index, event = await events.get()
                if isinstance(event, Exception):
                    await self._check(event)
                    event = Commit(self._ask.turn, 0, [], finish_reason="error")
                if not text.is_open(index):
                    continue  # committed beyond a stop string
                for output in _outputs(text, index, event, event.finish_reason):
                    output.num_cached_tokens = self.turns[first + index].num_cached_tokens
                    yield output
                if not text.is_open(index) and event.finish_reason is None:
                    await self._stop(tasks[index], event)
        finally:
            for index in range(params.n):
                self.turns[first + index].end()
            for task in filter(None, tasks):
                task.cancel()
            await asyncio.gather(*filter(None, tasks), return_exceptions=True)

    async def _begin(
        self,
        first: int,
        prompt_ids: list[int],
        params: list[SamplingParams],
        adapter: str,
        media: bytes,
    ) -> None:
        guess = self._ask.guess if first == 0 else None
        is_known = guess is not None and guess == prompt_guess(prompt_ids)
        seeds = [own.seed for own in params]
        sampling = wire_sampling(params[0])
        told = [] if is_known else prompt_ids
        await self._tell(Begun(self._ask.turn, told, first, seeds, sampling, adapter=adapter, media=media))

    def _committed(self, stream: int) -> CommittedStream:
        streams = self._resume.streams
        return streams[stream] if stream < len(streams) else CommittedStream()

    def _opening(
        self,
        stream: int,
        prompt: Any,
        params: SamplingParams,
        options: Mapping[str, Any],
    ) -> Opening:
        committed = self._committed(stream)
        mode = self._ask.mode if stream == 0 else Mode.LATENCY
        command = OpenSession(
            mode is Mode.LATENCY,
            committed.tokens,
            options.get("reasoning_ended"),
            options.get("reasoning_parser_kwargs"),
            self._cache_salt,
        )
        prompt_ids = list(prompt["prompt_token_ids"])  # vLLM adds the drafts of later chunks to the list
        own = self._salted(prompt) | {"prompt_token_ids": prompt_ids}
        return Opening(
            turn=self._ask.turn,
            input=StreamingInput(own, session_params(params, pack_command(command))),
            frontier=len(prompt_ids) + len(committed.tokens),
            mode=mode,
            patience_ms=self._ask.patience_ms,
            logprobs=params.logprobs,
            stream=stream,
            ends_unattended=False,
            options={name: options[name] for name in _PASSED_ON if options.get(name)},
        )

    def _start(
        self, index: int, turn: Turn, events: asyncio.Queue[tuple[int, Commit | Exception]]
    ) -> asyncio.Task[None]:
        async def emit(commit: Commit, overhead: Overhead) -> None:
            await self._emit(commit, overhead)
            events.put_nowait((index, commit))

        async def run() -> None:
            try:
                await turn.run(emit)
            except Exception as error:  # the generator's business
                events.put_nowait((index, error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self, task: asyncio.Task[None] | None, commit: Commit) -> None:
        """End a stream whose text has met a stop string in `commit`, and say so."""
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        base = commit.base + len(commit.tokens)
        await self._tell(
            Commit(commit.turn, base, [], passes=0, finish_reason="stop_string", stream=commit.stream)
        )

    async def _check(self, error: Exception) -> None:
        """Return if the handler shall say what has happened to the stream; raise what it shall say itself."""
        if isinstance(error, RefuseTurn):
            if error.code is RefusalCode.OVERLOADED:
                await self._lose(error)
            return
        if isinstance(error, EngineDeadError):
            await self._lose(engine_died())
        if isinstance(error, CloseConnection | EdgeLeft):
            await self._lose(error)
        raise error

    async def _tell(self, frame: Downstream) -> None:
        try:
            await self._send(frame)
        except (CloseConnection, EdgeLeft) as error:
            await self._lose(error)

    async def _lose(self, error: Exception) -> None:
        """Note that the edge gets no more of this answer here; returns never."""
        if not self.lost.done():
            self.lost.set_result(error)
        await asyncio.Event().wait()

    # -- undrafted --------------------------------------------------------------------------

    async def _generate_undrafted(
        self, reason: str, prompt: Any, params: SamplingParams, request_id: str, options: Mapping[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        if any(self._resume.delivered):
            message = f"an answer without drafts cannot be taken over ({reason})"
            await self._lose(RefuseTurn(RefusalCode.NOT_RESUMABLE, message))
        if not self._undrafted_told:
            self._undrafted_told = True
            await self._tell(Begun(self._ask.turn, drafted=False, reason=reason))
        outputs = self._engine.generate(self._salted(prompt), params, request_id, **options)
        async with contextlib.aclosing(outputs):
            try:
                async for output in outputs:
                    if any(completion.finish_reason == "abort" for completion in output.outputs):
                        await self._lose(engine_stops())
                    yield output
            except EngineDeadError:
                await self._lose(engine_died())

    def _salted(self, prompt: Any) -> Any:
        """`prompt` in the tenant's part of vLLM's prefix cache."""
        salt, own = self._cache_salt, prompt.get("cache_salt")
        if own:
            salt = hmac.new(salt.encode(), own.encode(), "sha256").hexdigest()
        return {**prompt, "cache_salt": salt}


def with_seed(params: SamplingParams) -> SamplingParams:
    """`params` with a seed if something is drawn, so that it can be told."""
    if params.seed is not None or not params.temperature:
        return params
    params = params.clone()
    params.seed = secrets.randbits(31)
    return params


def media_digest(prompt: Any) -> bytes:
    """Of the images and sounds of a prompt, which its ids do not tell apart; empty if there are none."""
    hashes = prompt.get("mm_hashes")
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).digest() if hashes else b""


def undraftable(prompt: Any, params: SamplingParams, options: Mapping[str, Any]) -> str:
    """Why a session cannot do this, so that it is left to vLLM alone; empty if it can."""
    reasons = {
        f"prompt of the kind {prompt['type']}": prompt["type"] not in _KINDS,
        "a prompt too long for a frame": len(prompt.get("prompt_token_ids") or ()) > _MAX_PROMPT,
        "prompt_logprobs": params.prompt_logprobs is not None or params.prompt_logprob_token_ids is not None,
        "logprob_token_ids": params.logprob_token_ids is not None,
        "logprobs": params.logprobs is not None and not 0 <= params.logprobs <= MAX_LOGPROBS,
        "beam search": not params.detokenize,
        "thinking_token_budget": params.thinking_token_budget is not None,
        "repetition_detection": params.repetition_detection is not None,
        "trace_decode_token_ids": params.trace_decode_token_ids is not None,
        "vllm_xargs or transfer parameters": bool(params.extra_args),
    }
    for reason, applies in reasons.items():
        if applies:
            return reason
    try:
        wire_sampling(params)
    except msgspec.ValidationError as error:
        return f"sampling parameters: {error}"
    return ""


def _replayed(text: compat.TextOutputs, index: int, committed: CommittedStream) -> Iterator[RequestOutput]:
    """The outputs that `committed` made of answer `index` before."""
    if not committed.tokens:
        return
    finish_reason = committed.finish_reason
    if finish_reason == "stop_string":
        finish_reason = None  # it is found again
    elif len(committed.tokens) >= (text.params[index].max_tokens or 0):
        finish_reason = finish_reason or "length"
    yield from _outputs(text, index, committed, finish_reason)


def _outputs(
    text: compat.TextOutputs,
    index: int,
    committed: Commit | CommittedStream,
    finish_reason: str | None,
) -> Iterator[RequestOutput]:
    """What comes of feeding answer `index` the tokens, singly, to a stop string or the last one."""
    tokens, logprobs = committed.tokens, committed.logprobs
    num_steps = max(1, len(tokens))
    for place in range(num_steps):
        row = None if logprobs is None or not tokens else _row(tokens[place], logprobs[place])
        ending = (finish_reason, committed.stop_reason) if place == num_steps - 1 else (None, None)
        output = text.add(index, tokens[place : place + 1], row, *ending)
        if output is not None:
            yield output
        if not text.is_open(index):
            return


def _row(token: int, told: TokenLogprobs) -> tuple[list[int], list[float], int]:
    """vLLM's form of a token's log-probabilities: its own first, then those of the likeliest."""
    others = [other for other, _ in told.top]
    values = [value for _, value in told.top]
    return [token, *others], [told.logprob, *values], told.rank
