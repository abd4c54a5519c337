"""One `Ask`: vLLM's own app answers it, in process, and what it sends goes to the edge.

The app is called as an HTTP server calls it, with the connection's own authorization, so that checks, routes,
templates, parsers and errors are vLLM's. Its engine is an `AskSession`. An answer goes down compressed, all
that the app sends without a pause in one frame; when the edge leaves or cancels, the app sees its client
disconnect.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from pipesd_vllm.api.session_engine import CURRENT, AskSession
from pipesd_vllm.api.validation import RefuseTurn, engine_died
from pipesd_vllm.wire import (
    Ask,
    AskPath,
    Control,
    Deflater,
    Downstream,
    Draft,
    RefusalCode,
    Reply,
    Resume,
    Text,
)

__all__ = ["Exchange", "resumed_body"]

logger = logging.getLogger("vllm.pipesd")

Event = MutableMapping[str, Any]

_MAX_PIECE: Final = 1 << 19
"""Bytes of a body that go into one frame, as they are before compression."""
_WIND_UP_S: Final = 5.0
"""How long vLLM's handler may take to end once its client has gone."""
_EVENT_END: Final = b"\n\n"


class Exchange:
    """Answers `ask`. `connection` is the ASGI scope of the WebSocket that it came by, of vLLM's own app."""

    def __init__(
        self,
        ask: Ask,
        connection: Mapping[str, Any],
        session: AskSession,
        send: Callable[[Downstream], Awaitable[None]],
    ) -> None:
        self.number = ask.turn
        self.finished = False
        """Whether the whole answer has been sent."""
        self.abandoned = asyncio.Event()
        """Never set: an answer that nobody drafts for goes on alone."""
        self._ask = ask
        self._connection = connection
        self._session = session
        self._send = send
        self._gone = asyncio.Event()
        self._body = [resumed_body(ask.path, ask.body, ask.resume)]
        self._reply: Reply | None = None
        self._pending = bytearray()
        self._has_ended = False
        self._news = asyncio.Event()
        self._delivered = list(ask.resume.delivered) if ask.resume else []
        self._has_events = False

    async def add(self, draft: Draft, received_s: float) -> None:
        """Pass on a draft frame that arrived at `received_s`; one for no stream under way means nothing."""
        turn = self._session.turns.get(draft.stream)
        if turn is not None:
            await turn.add(draft, received_s)

    async def control(self, control: Control) -> None:
        """Pass on what the edge wants of a stream."""
        turn = self._session.turns.get(control.stream)
        if turn is not None:
            await turn.control(control)

    async def run(self) -> None:
        """Answer, to the end; cancelling it makes the app's client disconnect.

        Raises `RefuseTurn`, `CloseConnection` and what the sending raises.
        """
        answering = asyncio.create_task(self._call())
        writing = asyncio.create_task(self._write())
        ends: list[asyncio.Future[Any]] = [writing, self._session.lost]
        try:
            await asyncio.wait([answering, *ends], return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and not (self._has_ended or self._session.lost.done()):
                raise RefuseTurn(RefusalCode.ENGINE_ERROR, "vLLM's answer broke off; its log says more")
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._session.lost.done():
                raise self._session.lost.result()
            await writing
        finally:
            self._gone.set()
            await asyncio.wait({answering}, timeout=_WIND_UP_S)
            answering.cancel()
            writing.cancel()
            await asyncio.gather(answering, writing, self._session.close(), return_exceptions=True)

    # -- the app's side ---------------------------------------------------------------------

    async def _call(self) -> None:
        CURRENT.set(self._session)  # of this task and those it starts
        own = self._connection
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", self._ask.request_id.encode()),
            *((name, value) for name, value in own["headers"] if name == b"authorization"),
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._ask.path,
            "raw_path": self._ask.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": own.get("client"),
            "server": own.get("server"),
            "state": dict(own.get("state", {})),
        }
        try:
            await own["app"](scope, self._receive, self._take)
        except Exception:
            logger.exception("vLLM's app failed")

    async def _receive(self) -> Event:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _take(self, event: Event) -> None:
        if self._gone.is_set() or self._session.lost.done():
            return
        if event.get("status", 0) >= 500 and self._session.is_dead:
            self._session.lost.set_result(engine_died())
            return
        if event["type"] == "http.response.start":
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event["headers"]]
            self._has_events = dict(headers).get("content-type", "").startswith("text/event-stream")
            self._reply = Reply(self.number, event["status"], headers)
        elif event["type"] == "http.response.body":
            body: bytes = event.get("body", b"")
            self._pending += self._undelivered(body) if self._has_events else body
            self._has_ended = not event.get("more_body", False)
        self._news.set()

    def _undelivered(self, body: bytes) -> bytes:
        """Leave out the events of each choice that the client has already."""
        if not any(self._delivered):
            return body
        return b"".join(
            event + _EVENT_END for event in body.split(_EVENT_END) if event and not self._is_delivered(event)
        )

    def _is_delivered(self, event: bytes) -> bool:
        try:
            choice = json.loads(event.removeprefix(b"data: "))["choices"][0]["index"]
        except (ValueError, LookupError, TypeError):
            return False  # an event of no choice: usage, an error, the end
        if choice >= len(self._delivered) or not self._delivered[choice]:
            return False
        self._delivered[choice] -= 1
        return True

    # -- the edge's side --------------------------------------------------------------------

    async def _write(self) -> None:
        deflater = Deflater()
        while not self.finished:
            await self._news.wait()
            self._news.clear()
            if self._reply is not None:
                reply, self._reply = self._reply, None
                await self._send(reply)
            while self._pending or (self._has_ended and not self.finished):
                piece = bytes(self._pending[:_MAX_PIECE])
                del self._pending[:_MAX_PIECE]
                last = self._has_ended and not self._pending
                await self._send(Text(self.number, deflater.add(piece), last))
                self.finished = last


def resumed_body(path: AskPath, body: bytes, resume: Resume | None) -> bytes:
    """`body`, with the prompt of the first server in place of a rendering that may have changed (a date).

    vLLM takes a prompt's ids for a chat of texts, and renders one with media again. Of what the ids leave
    out, only `return_prompt_text` asks.
    """
    if resume is None or not resume.prompt or path != "/v1/chat/completions":
        return body
    try:
        fields = json.loads(body)
    except ValueError:
        return body
    if not isinstance(fields, dict) or fields.get("kv_transfer_params") or fields.get("return_prompt_text"):
        return body
    return json.dumps(fields | {"kv_transfer_params": {"prompt_token_ids": resume.prompt}}).encode()
