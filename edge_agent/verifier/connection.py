"""A checked connection to the verifier, and the pool that keeps connections warm between turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.errors import (
    CloudMisbehaved,
    CloudOverloaded,
    CloudRefused,
    CloudUnreachable,
    VerifierTooOld,
)
from edge_agent.verifier.transport import Connector, Transport
from pipesd_vllm.wire import (
    PROTOCOL_VERSION,
    Begun,
    Cancel,
    Commit,
    RefusalCode,
    Refused,
    Reply,
    Text,
    Upstream,
    Welcome,
)

CheckWelcome = Callable[[Welcome], Awaitable[None]]


class CloudConnection:
    """One conversation slot: at most one turn at a time."""

    def __init__(self, transport: Transport, welcome: Welcome) -> None:
        self.welcome = welcome
        self._transport = transport
        self._turn = 0

    @property
    def is_open(self) -> bool:
        return self._transport.is_open

    def next_turn(self) -> int:
        """A turn number not used before on this connection."""
        self._turn += 1
        return self._turn

    async def send(self, message: Upstream) -> int:
        """Returns the frame's bytes. Raises `CloudUnreachable`."""
        return await self._transport.send(message)

    async def receive(self, turn: int) -> tuple[Commit | Begun | Reply | Text, int]:
        """The next frame of `turn` and its bytes; frames of ended turns are passed over.

        Raises `CloudRefused`, `CloudUnreachable`, `CloudMisbehaved`.
        """
        while True:
            message, num_bytes = await self._transport.receive()
            if isinstance(message, Welcome):
                raise CloudMisbehaved("the server introduced itself twice")
            if message.turn != turn:
                continue
            if isinstance(message, Refused):
                if message.code is RefusalCode.OVERLOADED:
                    raise CloudOverloaded(message.message)
                raise CloudRefused(str(message.code), message.message)
            return message, num_bytes

    async def ping(self, num_bytes: int) -> float:
        """As `Transport.ping`."""
        return await self._transport.ping(num_bytes)

    async def cancel(self, turn: int) -> None:
        """End `turn` on the server; a lost connection has ended it already."""
        try:
            await self._transport.send(Cancel(turn))
        except (CloudUnreachable, CloudRefused):
            await self.close()

    async def close(self) -> None:
        await self._transport.close()


class ConnectionPool:
    """Connections to one verifier, checked once each, reused turn after turn."""

    def __init__(
        self, connector: Connector, check: CheckWelcome, timeout_s: float, max_idle: int = 4
    ) -> None:
        self._connector = connector
        self._check = check
        self._timeout_s = timeout_s
        self._max_idle = max_idle
        self._idle: list[CloudConnection] = []
        self._closed = False

    async def acquire(self) -> CloudConnection:
        """A usable connection. Raises `CloudError` or `PairingError`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return await self._connect()

    async def release(self, connection: CloudConnection) -> None:
        """Give a connection back for the next turn."""
        if connection.is_open and not self._closed and len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Close what is idle now, and later what is still in use when it is given back."""
        self._closed = True
        await self.forget_idle()

    async def forget_idle(self) -> None:
        """Close what is idle: the next turn gets a fresh connection."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for connection in idle))

    async def _connect(self) -> CloudConnection:
        transport = await self._connector.connect()
        try:
            welcome = await self._welcome(transport)
            await self._check(welcome)
        except BaseException:
            await transport.close()
            raise
        return CloudConnection(transport, welcome)

    async def _welcome(self, transport: Transport) -> Welcome:
        try:
            message, _ = await asyncio.wait_for(transport.receive(), self._timeout_s)
        except TimeoutError:
            raise CloudUnreachable("the verifier accepted the connection but said nothing") from None
        if not isinstance(message, Welcome):
            raise CloudMisbehaved("the server did not introduce itself first")
        if message.version != PROTOCOL_VERSION:
            raise VerifierTooOld(
                f"the verifier speaks protocol {message.version}, this agent {PROTOCOL_VERSION}; update one"
            )
        return message
