"""The gateway over one simulated edge, asked as a client on the same machine would, and its event stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import FastAPI

from benchmarks.sim import models
from benchmarks.sim.plan import Api, Chat
from edge_agent.agent import EdgeAgent
from edge_agent.api import Route
from openai_gateway.app import create_app
from openai_gateway.chat_service import MODE_HEADER, POLICY_HEADER, PROVENANCE_HEADER
from pipesd_vllm.wire import Structure, StructureKind

__all__ = ["HttpFailure", "gateway_app", "prompt_of", "request_of", "stream_events"]

_PATHS = {Api.CHAT: "/v1/chat/completions", Api.COMPLETIONS: "/v1/completions"}


class HttpFailure(Exception):
    """The answer is no event stream: its status, and `error` of its body."""

    def __init__(self, status: int, body: bytes) -> None:
        error: dict[str, Any] = {}
        with suppress(ValueError, AttributeError):
            error = json.loads(body).get("error") or {}
        self.kind = str(error.get("code") or error.get("type") or status)
        super().__init__(f"HTTP {status}: {error.get('message', body[:200])}")


def gateway_app(agent: EdgeAgent) -> FastAPI:
    """The gateway's web application on the running loop's time."""
    return create_app(agent, clock=asyncio.get_running_loop().time)


def prompt_of(chat: Chat) -> tuple[int, ...]:
    """The token ids that the target gets for `chat`."""
    if chat.api is not Api.CHAT:
        return chat.prompt
    tokenizer = models.tokenizer()
    text = tokenizer.decode(list(chat.prompt), skip_special_tokens=False)
    rendered = f"<|user|>{text}<|end|><|assistant|>"
    return tuple(tokenizer.encode(rendered, add_special_tokens=False).ids)


def request_of(chat: Chat, model: str) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers for `chat`: all sampling but logprobs, biases, bad words, allowed ids."""
    sampling = chat.sampling
    body: dict[str, Any] = {
        "model": model if chat.route is Route.COLLABORATIVE else f"{model}:{chat.route}",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "ignore_eos": sampling.ignore_eos,
        "stop_token_ids": list(sampling.stop_token_ids),
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "min_tokens": sampling.min_tokens,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if chat.n > 1:
        body["n"] = chat.n
    if sampling.structure is not None:
        body["structured_outputs"] = _structured(sampling.structure)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if chat.api is Api.CHAT:
        text = models.tokenizer().decode(list(chat.prompt), skip_special_tokens=False)
        body["messages"] = [{"role": "user", "content": text}]
    else:
        body["prompt"] = list(chat.prompt)
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        MODE_HEADER: str(chat.mode),
        POLICY_HEADER: chat.policy,
        PROVENANCE_HEADER: "1",
    }
    return _PATHS[chat.api], json.dumps(body).encode(), headers


def _structured(structure: Structure) -> dict[str, Any]:
    """vLLM's field."""
    match structure.kind:
        case StructureKind.JSON_SCHEMA:
            return {"json": json.loads(structure.value)}
        case StructureKind.JSON_OBJECT:
            return {"json_object": True}
        case StructureKind.CHOICE:
            return {"choice": json.loads(structure.value)}
        case kind:
            return {str(kind): structure.value}


async def stream_events(
    app: FastAPI, path: str, body: bytes, headers: Mapping[str, str]
) -> AsyncGenerator[str, None]:
    """POST over ASGI; the data of each server-sent event as it comes. Closing it is the client's leaving.

    Raises `HttpFailure` for an answer that is no stream.
    """
    sent: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
    left = asyncio.Event()
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        if left.is_set():
            raise OSError("the client has left")
        sent.put_nowait(event)

    serving = asyncio.create_task(_serve(app, _scope(path, headers), receive, send, sent))
    try:
        start = await sent.get()
        if start is None:
            raise HttpFailure(500, b"")
        status = start["status"]
        if status != 200:
            raise HttpFailure(status, b"".join([part async for part in _parts(sent)]))
        async for event in _events(sent):
            yield event
    finally:
        left.set()
        with suppress(OSError):
            await serving


async def _serve(app: FastAPI, scope: Any, receive: Any, send: Any, sent: asyncio.Queue[Any]) -> None:
    try:
        await app(scope, receive, send)
    finally:
        sent.put_nowait(None)


def _scope(path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }


async def _parts(sent: asyncio.Queue[Mapping[str, Any] | None]) -> AsyncGenerator[bytes, None]:
    while (event := await sent.get()) is not None:
        yield event.get("body", b"")
        if not event.get("more_body", False):
            return


async def _events(sent: asyncio.Queue[Mapping[str, Any] | None]) -> AsyncGenerator[str, None]:
    """Data of the events; comments (pings) are passed over."""
    pending = b""
    async for part in _parts(sent):
        pending += part
        while b"\n\n" in pending:
            event, pending = pending.split(b"\n\n", 1)
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines).decode()
