"""The faults, by name: what strikes, what heals it, and who is asked meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.attacks import ATTACKS, Attack
from benchmarks.faults.stage import Process, Stage
from edge_agent.api import Fallback

__all__ = ["FAULTS", "Fault"]

Act = Callable[[Stage, random.Random], Awaitable[None]]

_WAIT: Final = (Fallback.WAIT,)
_ALL: Final = tuple(Fallback)
_UP, _DOWN = 0, 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Strikes once while answers are under way."""

    text: str
    act: Act
    """From the first harm to where all is whole again."""
    fallbacks: tuple[Fallback, ...] = _WAIT
    num_servers: int = 1
    line_lost: bool = False
    """Whether it takes the clients' own connections."""


async def _nothing(stage: Stage, rng: random.Random) -> None:
    """The row of comparison."""


async def _back(process: Process) -> None:
    process.start()
    await process.ready()


async def _server_killed(stage: Stage, rng: random.Random) -> None:
    stage.servers[0].kill()
    await _back(stage.servers[0])


async def _server_drained(stage: Stage, rng: random.Random) -> None:
    await stage.servers[0].drain()
    await _back(stage.servers[0])


async def _server_stopped(stage: Stage, rng: random.Random) -> None:
    stage.servers[0].pause()
    await asyncio.sleep(rng.uniform(0.5, 8.0))
    stage.servers[0].resume()


async def _edge_killed(stage: Stage, rng: random.Random) -> None:
    gateway = stage.gateways[Fallback.WAIT]
    gateway.kill()
    await _back(gateway)


async def _edge_drained(stage: Stage, rng: random.Random) -> None:
    gateway = stage.gateways[Fallback.WAIT]
    await gateway.drain()
    await _back(gateway)


async def _edge_stopped(stage: Stage, rng: random.Random) -> None:
    gateway = stage.gateways[Fallback.WAIT]
    gateway.pause()
    await asyncio.sleep(rng.uniform(0.5, 8.0))
    gateway.resume()


async def _cut(stage: Stage, rng: random.Random) -> None:
    stage.path.cut()


async def _cut_often(stage: Stage, rng: random.Random) -> None:
    for _ in range(5):
        stage.path.cut()
        await asyncio.sleep(rng.uniform(0.05, 0.4))


async def _cut_in_a_frame(stage: Stage, rng: random.Random) -> None:
    stage.path.cut_after(rng.choice((_UP, _DOWN)), rng.randint(1, 400))
    await asyncio.sleep(1.0)


async def _refused(stage: Stage, rng: random.Random) -> None:
    stage.path.refuse()
    await asyncio.sleep(rng.uniform(0.2, 3.0))
    await stage.path.restore()


def _hole(*directions: int) -> Act:
    async def act(stage: Stage, rng: random.Random) -> None:
        stage.path.hold(*directions)
        await asyncio.sleep(rng.uniform(0.3, 8.0))
        stage.path.release()

    return act


def _attack(attack: Attack) -> Act:
    async def act(stage: Stage, rng: random.Random) -> None:
        await attack(stage.servers[0], rng)

    return act


FAULTS: Final[Mapping[str, Fault]] = {
    "none": Fault("nothing fails: the undisturbed answers once more", _nothing),
    "cut": Fault("every connection to the server is reset", _cut),
    "cut-often": Fault("the same five times within two seconds", _cut_often),
    "cut-frame": Fault("connections are reset after some bytes more, in mid-frame", _cut_in_a_frame),
    "refused": Fault("reset, and no new connection for up to 3 s", _refused, _ALL),
    "hole-up": Fault("nothing arrives at the server for up to 8 s", _hole(_UP)),
    "hole-down": Fault("nothing arrives at the edge for up to 8 s", _hole(_DOWN)),
    "hole": Fault("nothing arrives anywhere for up to 8 s", _hole(_UP, _DOWN)),
    "server-stop": Fault("SIGSTOP to the server, SIGCONT within 8 s", _server_stopped),
    "server-kill": Fault("SIGKILL to the server, and a new start", _server_killed, _ALL),
    "server-drain": Fault("SIGTERM to the server, and a new start", _server_drained, _ALL),
    "edge-stop": Fault("SIGSTOP to edge and gateway, SIGCONT within 8 s", _edge_stopped),
    "edge-kill": Fault("SIGKILL to edge and gateway, and a new start", _edge_killed, line_lost=True),
    "edge-drain": Fault("SIGTERM to edge and gateway, and a new start", _edge_drained, line_lost=True),
    **{name: Fault(text, _attack(attack)) for name, (text, attack) in ATTACKS.items()},
    "replica-kill": Fault("two servers: SIGKILL to the one that answers", _server_killed, num_servers=2),
    "replica-stop": Fault("two servers: SIGSTOP to the one that answers", _server_stopped, num_servers=2),
    "replica-drain": Fault("two servers: SIGTERM to the one that answers", _server_drained, num_servers=2),
}
"""With two servers the first one answers: it is `--cloud`, and none has failed before."""
