"""What the emulated path is really like: round trip and rates, measured before a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from openai_gateway.cli.errors import CliError

__all__ = ["Probed", "probe"]

_NUM_ECHOES: Final = 9
_FIRST_BYTES: Final = 1 << 16
_AIM_S: Final = 1.0
_MOST_BYTES: Final = 1 << 24

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Probed:
    """Median round trip of a small message; rates of one TCP stream in 10^6 payload bits a second."""

    rtt_ms: float
    up_mbit: float
    down_mbit: float


async def probe(address: str, path: str = "/probe", clock: Clock = time.perf_counter) -> Probed:
    """Ask the far side at `address` ("host:port"). A few seconds. Raises `CliError`."""
    try:
        async with connect(
            f"ws://{address}{path}", compression=None, max_size=None, ping_interval=None, proxy=None
        ) as far:

            async def exchange_s(message: bytes | str) -> float:
                started_s = clock()
                await far.send(message)
                await far.recv()
                return clock() - started_s

            async def rate_mbit(message: Callable[[int], bytes | str]) -> float:
                """Of a transfer of about a second, whose size shorter ones have found."""
                num_bytes = _FIRST_BYTES
                while True:
                    elapsed_s = max(1e-6, await exchange_s(message(num_bytes)) - rtt_s)
                    if elapsed_s >= _AIM_S / 2 or num_bytes == _MOST_BYTES:
                        return num_bytes * 8 / elapsed_s / 1e6
                    num_bytes = min(_MOST_BYTES, max(2 * num_bytes, int(num_bytes * _AIM_S / elapsed_s)))

            rtt_s = median([await exchange_s(b"-") for _ in range(_NUM_ECHOES)])
            return Probed(rtt_s * 1e3, await rate_mbit(bytes), await rate_mbit(str))
    except (OSError, WebSocketException) as error:
        raise CliError(f"The probe of the link failed: {error!r}") from error
