"""Detects dead connections (packets swallowed, no close, no reset) by a ping after a silence."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from edge_agent.errors import CloudUnreachable
from edge_agent.verifier.connection import CloudConnection
from pipesd_vllm.wire import Ask, Begun, Commit, Open, Reply, Text

__all__ = ["Keepalive"]

_SLOWEST_UPLINK: Final = 8000.0
"""Bytes a second. A ping waits behind a long prompt on its way up: it gets that much more time."""
_BYTES_A_TOKEN: Final = 5
_PING_BYTES: Final = 8
_DEAD: Final = "the line to the verifier is dead: it does not answer any more"


class Keepalive:
    """Pings the server after `silence_s` without a frame, and waits `answer_s` for the answer."""

    def __init__(self, silence_s: float = 3.0, answer_s: float = 7.0) -> None:
        self._silence_s = silence_s
        self._answer_s = answer_s

    async def open(self, connection: CloudConnection, opened: Open | Ask) -> int:
        """Send a turn's first frame; returns its bytes.

        Raises `CloudUnreachable`, also if the frame cannot be handed over in the time its size would need.
        """
        num_bytes = _size(opened)
        try:
            async with asyncio.timeout(self._silence_s + self._answer_s + num_bytes / _SLOWEST_UPLINK):
                return await connection.send(opened)
        except TimeoutError:
            raise CloudUnreachable(_DEAD) from None

    async def receive(
        self, connection: CloudConnection, turn: int, num_sent: int = 0
    ) -> tuple[Commit | Begun | Reply | Text, int]:
        """The next frame of `turn` and its bytes; `num_sent` bytes may still be on their way up.

        Raises as `CloudConnection.receive`, and `CloudUnreachable` if the connection is dead.
        """
        receiving = asyncio.ensure_future(connection.receive(turn))
        try:
            while not (await asyncio.wait({receiving}, timeout=self._silence_s))[0]:
                await self._check_alive(connection, receiving, self._answer_s + num_sent / _SLOWEST_UPLINK)
            return receiving.result()
        finally:
            await _cancel_and_wait(receiving)

    async def _check_alive(
        self, connection: CloudConnection, receiving: asyncio.Future[Any], answer_s: float
    ) -> None:
        """Returns once the ping is answered or a frame has come. Raises `CloudUnreachable`."""
        pinging = asyncio.ensure_future(connection.ping(_PING_BYTES))
        try:
            waiting = {pinging, receiving}
            done, _ = await asyncio.wait(waiting, timeout=answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise CloudUnreachable(_DEAD)
        finally:
            await _cancel_and_wait(pinging)  # if it failed, so does reading the next frame


def _size(opened: Open | Ask) -> int:
    """About how many bytes it has on the wire."""
    if isinstance(opened, Open):
        return _BYTES_A_TOKEN * (len(opened.prompt) + len(opened.committed))
    resume = opened.resume
    num_tokens = len(resume.prompt) + sum(len(each.tokens) for each in resume.streams) if resume else 0
    return len(opened.body) + _BYTES_A_TOKEN * num_tokens


async def _cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancel `task` if it has not ended, and return once it has. Its result or error is dropped."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
