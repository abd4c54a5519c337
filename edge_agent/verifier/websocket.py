"""Transport over a WebSocket: binary frames, no compression, TCP_NODELAY (asyncio's default)."""

from __future__ import annotations

import asyncio
import ssl

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State
from websockets.typing import Subprotocol

from edge_agent.errors import CloudMisbehaved, CloudRefused, CloudUnreachable, VerifierTooOld
from edge_agent.verifier.http import error_from_status, no_answer
from edge_agent.verifier.network import proxy_of
from pipesd_vllm.wire import (
    AFFINITY_HEADER,
    MAX_FRAME_BYTES,
    SESSION_PATH,
    SUBPROTOCOL,
    CloseReason,
    Downstream,
    ProtocolError,
    Upstream,
    decode_downstream,
    encode_in_parts,
)

_MASK_BYTES = 4
_CLOSE_TIMEOUT_S = 1.0
"""How long a peer may take to agree that a connection is closed: a dead one never does."""
_MAX_UNREAD = 1024
"""Frames that may lie unread: beyond them reading pauses and pings go unanswered. A turn that was cancelled
on a slow line leaves what was under way, until the connection's next turn passes over it."""
_OUR_FAULT = frozenset({CloseReason.BAD_FRAME, CloseReason.BAD_TOKEN, CloseReason.TOO_LARGE})


def frame_bytes(payload_bytes: int, *, masked: bool) -> int:
    """Size of a WebSocket frame on the wire (RFC 6455, section 5.2)."""
    if payload_bytes < 126:
        header = 2
    elif payload_bytes < 1 << 16:
        header = 4
    else:
        header = 10
    return header + (_MASK_BYTES if masked else 0) + payload_bytes


class WebSocketTransport:
    """`Transport` on an open client connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._num_pings = 0
        self._is_within_message = False
        """A message of several frames is under way, or was given up: nothing else may be sent."""

    @property
    def is_open(self) -> bool:
        return self._connection.state is State.OPEN and not self._is_within_message

    async def send(self, message: Upstream) -> int:
        if self._is_within_message:
            raise CloudUnreachable("the connection to the verifier was left in the middle of a message")
        frames = list(encode_in_parts(message))
        self._is_within_message = len(frames) > 1
        try:
            for data in frames:
                await self._connection.send(data)
        except ConnectionClosed as error:
            raise _lost(error) from error
        self._is_within_message = False
        return sum(frame_bytes(len(data), masked=True) for data in frames)

    async def receive(self) -> tuple[Downstream, int]:
        try:
            data = await self._connection.recv()
        except ConnectionClosed as error:
            raise _lost(error) from error
        if isinstance(data, str):
            raise CloudMisbehaved("the server sent a text frame; is it a pipesd verifier?")
        try:
            return decode_downstream(data), frame_bytes(len(data), masked=False)
        except ProtocolError as error:
            raise CloudMisbehaved(f"the server sent a frame that is not in the protocol: {error}") from error

    async def ping(self, num_bytes: int) -> float:
        self._num_pings += 1
        payload = self._num_pings.to_bytes(8, "big").ljust(num_bytes, b"\0")
        try:
            return float(await (await self._connection.ping(payload)))
        except ConnectionClosed as error:
            raise _lost(error) from error

    async def close(self) -> None:
        await self._connection.close()


class WebSocketConnector:
    """Connects to the verifier at `cloud_url` (http or https)."""

    def __init__(
        self,
        cloud_url: str,
        api_key: str | None,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
        affinity: str | None = None,
    ) -> None:
        """`tls`: whose certificates are trusted; None: the usual ones.

        `affinity`: connections that have it in common go to one server, where a proxy stands before several.
        """
        base = cloud_url.rstrip("/")
        self._base = base
        self._url = (
            base.replace("http", "ws", 1) + SESSION_PATH if base.startswith("http") else base + SESSION_PATH
        )
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if affinity is not None:
            self._headers[AFFINITY_HEADER] = affinity
        self._timeout_s = timeout_s
        self._tls = tls

    async def connect(self) -> WebSocketTransport:
        try:
            connection = await asyncio.wait_for(self._connect(), self._timeout_s)
        except InvalidStatus as error:
            response = error.response
            retry_after = response.headers.get("Retry-After")
            raise error_from_status(self._base, SESSION_PATH, response.status_code, retry_after) from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
            raise no_answer(self._base, error) from error
        return WebSocketTransport(connection)

    async def _connect(self) -> ClientConnection:
        return await connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._headers,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            max_queue=_MAX_UNREAD,
            proxy=proxy_of(self._base),
            ssl=(self._tls or True) if self._url.startswith("wss:") else None,
            close_timeout=_CLOSE_TIMEOUT_S,
        )


def _lost(error: ConnectionClosed) -> CloudUnreachable | CloudRefused:
    """The error for a closed connection: a refusal if closed for what we sent, else a loss to resume from."""
    received = error.rcvd
    code, _, detail = (received.reason if received else "").partition(": ")
    if code == CloseReason.BAD_VERSION:
        return VerifierTooOld(f"the verifier speaks an older protocol: {detail or code}")
    if code in _OUR_FAULT:
        return CloudRefused(code, f"the verifier closed the session: {detail or code}")
    return CloudUnreachable(f"the connection to the verifier was lost{f' ({detail})' if detail else ''}")
