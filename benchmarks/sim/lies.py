"""Servers and edges that break the protocol, around the real ones or in their place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from benchmarks.sim.models import VOCAB_SIZE
from benchmarks.sim.plan import EdgeLie, EdgeLies, ServerLie, ServerLies
from pipesd_vllm.wire import (
    SESSION_PATH,
    SUBPROTOCOL,
    Commit,
    Draft,
    Mode,
    Open,
    ProtocolError,
    Sampling,
    decode_downstream,
    encode,
)

__all__ = ["LyingServer", "lie_as_edge"]

_GARBAGE: Final = b"\xc1garbage"
_STRANGE_TURN: Final = 4_000_000
_GAP: Final = 5
_TOKEN: Final = 10
_NUM_TURNS: Final = 64
_NUM_JUNK: Final = 16
"""Drafts of a frame of nonsense, all said to be certain."""
_BETWEEN_TURNS_S: Final = 0.02
_MAX_TOKENS: Final = 64


class LyingServer:
    """An ASGI application around `app` that changes chosen frames of chosen connections.

    A lie about a commit waits for the first commit from its frame on.
    """

    def __init__(self, app: Callable[..., Any], lies: Sequence[ServerLies]) -> None:
        self._app = app
        self._lies = lies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        host, port = scope.get("client") or ("", 0)
        mine = [lie for lie in self._lies if f"edge{lie.edge}" == host and lie.connection == port]
        if scope["type"] == "websocket" and mine:
            send = _LyingSend(send, mine)
        await self._app(scope, receive, send)


class _LyingSend:
    """ASGI's `send` of one connection."""

    def __init__(self, send: Callable[[Any], Any], lies: Sequence[ServerLies]) -> None:
        self._send = send
        self._lies = sorted(lies, key=lambda lie: lie.frame)
        self._num_frames = 0

    async def __call__(self, event: Any) -> None:
        if event["type"] != "websocket.send":
            await self._send(event)
            return
        self._num_frames += 1
        if not self._lies or self._num_frames < self._lies[0].frame:
            await self._send(event)
            return
        told = _told(self._lies[0].lie, event["bytes"])
        if told is None:
            await self._send(event)
            return
        self._lies.pop(0)
        for each in told:
            await self._send(each)


def _told(lie: ServerLie, data: bytes) -> list[dict[str, Any]] | None:
    """The events in place of a true frame; None: this frame cannot be lied about in this way."""

    def event(sent: bytes) -> dict[str, Any]:
        return {"type": "websocket.send", "bytes": sent}

    changed = msgspec.structs.replace
    if lie is ServerLie.GARBAGE:
        return [event(_GARBAGE), event(data)]
    if lie is ServerLie.TEXT_FRAME:
        return [{"type": "websocket.send", "text": "commit"}, event(data)]
    commit = _commit(data)
    if commit is None or not commit.tokens:
        return None
    match lie:
        case ServerLie.GAP:
            return [event(encode(changed(commit, base=commit.base + _GAP)))]
        case ServerLie.REWRITE:
            other = [(token + 1) % VOCAB_SIZE for token in commit.tokens]
            return [event(data), event(encode(changed(commit, tokens=other, finish_reason=None)))]
        case ServerLie.REPLAY:
            return [event(data)] if commit.finish_reason else [event(data), event(data)]
        case ServerLie.OUT_OF_VOCABULARY:
            return [event(encode(changed(commit, tokens=[*commit.tokens[:-1], 2**31])))]
        case ServerLie.STRANGE_TURN:
            return [event(encode(changed(commit, turn=_STRANGE_TURN))), event(data)]
        case _:
            return [event(encode(changed(commit, finish_reason="unheard of")))]


def _commit(data: bytes) -> Commit | None:
    try:
        message = decode_downstream(data)
    except ProtocolError:
        return None
    return message if isinstance(message, Commit) else None


# -- edges --------------------------------------------------------------------------------


async def lie_as_edge(host: str, lies: EdgeLies, api_key: str | None, prompt: Sequence[int]) -> None:
    """Connect to the server behind `host` and lie until the time is over or the server has had enough."""
    with contextlib.suppress(OSError, TimeoutError, WebSocketException):
        async with asyncio.timeout(lies.for_s):
            await _lie(host, lies.lie, api_key, prompt)


async def _lie(host: str, lie: EdgeLie, api_key: str | None, prompt: Sequence[int]) -> None:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connection = await connect(
        f"ws://{host}{SESSION_PATH}",
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        additional_headers=headers,
        compression=None,
        proxy=None,
        close_timeout=1.0,
    )
    async with connection:
        await connection.recv()
        await _speak(connection, lie, prompt)
        if lie is EdgeLie.DEAF:
            await asyncio.Event().wait()
        async for _ in connection:
            pass


async def _speak(connection: ClientConnection, lie: EdgeLie, prompt: Sequence[int]) -> None:
    frontier = len(prompt)
    match lie:
        case EdgeLie.GARBAGE:
            await connection.send(_GARBAGE)
            return
        case EdgeLie.TEXT_FRAME:
            await connection.send("open")
            return
        case EdgeLie.OPEN_STORM | EdgeLie.DEAF:
            for turn in range(1, _NUM_TURNS):
                await connection.send(_open(turn, prompt, Mode.LATENCY))
                await asyncio.sleep(_BETWEEN_TURNS_S)
            return
        case _:
            await connection.send(_open(1, prompt, Mode.OFFLOAD))
    match lie:
        case EdgeLie.BAD_PARENTS:
            await connection.send(encode(Draft(1, 1, frontier + 1, 0, [_TOKEN, _TOKEN], parents=[5, 9])))
        case EdgeLie.FUTURE_ANCHOR:
            await connection.send(encode(Draft(1, 7, frontier + 9, 6, [_TOKEN])))
        case EdgeLie.OUT_OF_VOCABULARY:
            await connection.send(encode(Draft(1, 1, frontier + 1, 0, [2**31 - 1])))
        case EdgeLie.WRONG_DRAFTS:
            await _draft_nonsense(connection, prompt)
        case _:
            pass  # silent


async def _draft_nonsense(connection: ClientConnection, prompt: Sequence[int]) -> None:
    """Answer each commit with drafts that nobody would make, turn after turn."""
    first, turn = 1, 1
    async for data in connection:
        message = decode_downstream(data.encode() if isinstance(data, str) else data)
        if not isinstance(message, Commit):
            return
        if message.finish_reason is not None:
            first, turn = 1, turn + 1
            await connection.send(_open(turn, prompt, Mode.OFFLOAD))
            continue
        frontier = message.base + len(message.tokens)
        junk = [_TOKEN] * _NUM_JUNK
        confidences = bytes([255]) * _NUM_JUNK
        await connection.send(encode(Draft(turn, first, frontier, 0, junk, confidences=confidences)))
        first += _NUM_JUNK


def _open(turn: int, prompt: Sequence[int], mode: Mode) -> bytes:
    sampling = Sampling(max_tokens=_MAX_TOKENS, ignore_eos=True)
    return encode(Open(turn=turn, prompt=list(prompt), sampling=sampling, mode=mode))
