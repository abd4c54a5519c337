"""What the emulated path is really like: round trip and rates, measured before a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
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
            rtt_s = median([await _exchange(far, b"-", clock) for _ in range(_NUM_ECHOES)])
            up = await _rate(far, bytes, rtt_s, clock)
            down = await _rate(far, str, rtt_s, clock)
    except (OSError, WebSocketException) as error:
        raise CliError(f"The probe of the link failed: {error!r}") from error
    return Probed(rtt_s * 1e3, up / 1e6, down / 1e6)


async def _rate(
    far: ClientConnection, message: Callable[[int], bytes | str], rtt_s: float, clock: Clock
) -> float:
    """Bits a second of a transfer of about a second, whose size a shorter one has found."""
    num_bytes, elapsed_s = _FIRST_BYTES, 0.0
    for _ in range(2):
        elapsed_s = max(1e-6, await _exchange(far, message(num_bytes), clock) - rtt_s)
        if elapsed_s >= _AIM_S / 2 or num_bytes == _MOST_BYTES:
            break
        num_bytes = min(_MOST_BYTES, max(num_bytes, int(num_bytes * _AIM_S / elapsed_s)))
    else:
        elapsed_s = max(1e-6, await _exchange(far, message(num_bytes), clock) - rtt_s)
    return num_bytes * 8 / elapsed_s


async def _exchange(far: ClientConnection, message: bytes | str, clock: Clock) -> float:
    started_s = clock()
    await far.send(message)
    await far.recv()
    return clock() - started_s
