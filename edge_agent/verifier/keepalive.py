"""Reads a turn's frames from a line that may die without a word: packets swallowed, no close, no reset."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from edge_agent.errors import CloudUnreachable
from edge_agent.verifier.connection import CloudConnection
from pipesd_vllm.wire import Commit, Open

__all__ = ["Keepalive", "cancel_and_wait"]


_SLOWEST_UPLINK: Final = 8000.0
"""Bytes a second: what waits behind a long prompt on its way up is not dead."""
_BYTES_A_TOKEN: Final = 5
_PING_BYTES: Final = 8
_DEAD: Final = "the line to the verifier is dead: it does not answer any more"


class Keepalive:
    """After `silence_s` without a frame it asks the server for a sign of life and waits `answer_s` for it."""

    def __init__(self, silence_s: float = 3.0, answer_s: float = 7.0) -> None:
        self._silence_s = silence_s
        self._answer_s = answer_s

    async def open(self, connection: CloudConnection, opened: Open) -> int:
        """Send a turn's first frame; its bytes. Raises `CloudUnreachable`, also if the line takes nothing."""
        num_bytes = _BYTES_A_TOKEN * (len(opened.prompt) + len(opened.committed))
        try:
            async with asyncio.timeout(self._silence_s + self._answer_s + num_bytes / _SLOWEST_UPLINK):
                return await connection.send(opened)
        except TimeoutError:
            raise CloudUnreachable(_DEAD) from None

    async def receive(self, connection: CloudConnection, turn: int, num_sent: int = 0) -> tuple[Commit, int]:
        """The next commit of `turn` and its bytes; `num_sent` bytes may still be on their way up.

        Raises as `CloudConnection.receive`, and `CloudUnreachable` for a line that is dead.
        """
        receiving = asyncio.ensure_future(connection.receive(turn))
        try:
            while not (await asyncio.wait({receiving}, timeout=self._silence_s))[0]:
                await self._sign_of_life(connection, receiving, self._answer_s + num_sent / _SLOWEST_UPLINK)
            return receiving.result()
        finally:
            await cancel_and_wait(receiving)

    async def _sign_of_life(
        self, connection: CloudConnection, receiving: asyncio.Future[Any], answer_s: float
    ) -> None:
        """Returns once there is one, a frame being another. Raises `CloudUnreachable`."""
        pinging = asyncio.ensure_future(connection.ping(_PING_BYTES))
        try:
            waiting = {pinging, receiving}
            done, _ = await asyncio.wait(waiting, timeout=answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise CloudUnreachable(_DEAD)
        finally:
            await cancel_and_wait(pinging)  # what it raised: a lost line is told by the next frame, too


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancel `task` if it has not ended, and return once it has. What it returned or raised is dropped."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
