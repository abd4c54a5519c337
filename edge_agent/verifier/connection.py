"""A checked connection to the verifier, and the pool that keeps connections warm between turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from edge_agent.errors import (
    CloudMisbehaved,
    CloudOverloaded,
    CloudRefused,
    CloudUnreachable,
    TargetChanged,
    VerifierTooOld,
)
from edge_agent.verifier.replicas import Replicas
from edge_agent.verifier.target import check_same_target
from edge_agent.verifier.transport import Connector, Transport
from pipesd_vllm.wire import (
    KEPT,
    PROTOCOL_VERSION,
    Ask,
    Begun,
    Cancel,
    Commit,
    RefusalCode,
    Refused,
    Reply,
    Text,
    Upstream,
    Welcome,
    said_since,
    to_keep,
)

CheckWelcome = Callable[[Welcome], Awaitable[None]]


class CloudConnection:
    """One conversation slot: at most one turn at a time."""

    def __init__(self, transport: Transport, welcome: Welcome, replica: int = 0) -> None:
        """`replica`: number of the server among those of its pool."""
        self.welcome = welcome
        self.replica = replica
        self._transport = transport
        self._turn = 0
        self._last_body = b""
        """Of the last `Ask`: what the next one need not say again."""

    @property
    def is_open(self) -> bool:
        return self._transport.is_open

    def next_turn(self) -> int:
        """A turn number not used before on this connection."""
        self._turn += 1
        return self._turn

    async def send(self, message: Upstream) -> int:
        """Returns the frame's bytes. Raises `CloudUnreachable`."""
        if not isinstance(message, Ask) or KEPT not in self.welcome.features:
            return await self._transport.send(message)
        # A send that is cancelled may have been one, or not: the next message is whole then.
        last, self._last_body = self._last_body, b""
        num_bytes = await self._transport.send(said_since(message, last))
        self._last_body = to_keep(message)
        return num_bytes

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
                    raise CloudOverloaded(message.message, message.retry_after_s)
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
    """Connections to a verifier, checked once each, reused turn after turn.

    Where several serve the same target, the first that answers is taken (`Replicas`).
    """

    def __init__(
        self,
        connector: Connector,
        check: CheckWelcome,
        timeout_s: float,
        max_idle: int = 4,
        *,
        others: Sequence[Connector] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connectors = [connector, *others]
        self._replicas = Replicas(len(self._connectors), clock)
        self._check = check
        self._timeout_s = timeout_s
        self._max_idle = max_idle
        self._idle: list[CloudConnection] = []
        self._closed = False

    @property
    def has_another(self) -> bool:
        """Whether a server is there that has not failed lately."""
        return self._replicas.has_another

    async def acquire(self, began: Welcome | None = None) -> CloudConnection:
        """A usable connection, to the target of `began` if given.

        Raises `CloudError`, `TargetChanged` among them, or `PairingError`.
        """
        self._idle = [connection for connection in self._idle if connection.is_open]
        for connection in reversed(self._idle):
            if began is None or _is_same(began, connection.welcome):
                self._idle.remove(connection)
                return connection
        return await self._replicas.ask(lambda replica: self._connect(replica, began))

    def lost(self, connection: CloudConnection, for_s: float | None) -> None:
        """Its server failed in the middle of a turn, or has no room for `for_s`: ask others first."""
        self._replicas.failed(connection.replica, for_s)

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

    async def _connect(self, replica: int, began: Welcome | None) -> CloudConnection:
        transport = await self._connectors[replica].connect()
        try:
            welcome = await self._welcome(transport)
            if began is not None:
                check_same_target(began, welcome)
            await self._check(welcome)
        except BaseException:
            await transport.close()
            raise
        return CloudConnection(transport, welcome, replica)

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


def _is_same(began: Welcome, now: Welcome) -> bool:
    try:
        check_same_target(began, now)
    except TargetChanged:
        return False
    return True
