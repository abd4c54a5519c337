"""Many clients that keep their connections, few of them generating at a time: errors and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.gateway_client import ChatTask, GatewayClient, StreamedChat, gateway_client

__all__ = ["CrowdPlan", "CrowdResult", "Memory", "memory_of", "run_crowd"]

FLAT_SHARE: Final = 0.02
"""Memory that grows by less than this share in the second half of a run counts as flat."""

_SUBJECTS: Final = ("rivers", "bread", "clocks", "bridges", "glass", "maps", "paper", "lighthouses")


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """`num_clients` connections; each asks `rounds` questions; `at_once` answers are under way at a time."""

    num_clients: int = 200
    at_once: int = 4
    rounds: int = 2
    num_tokens: int = 16

    @property
    def num_answers(self) -> int:
        return self.num_clients * self.rounds


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes: before the first answer, after half of them, after the last, the most."""

    start: int
    middle: int
    end: int
    most: int

    @property
    def growth(self) -> float:
        """Of the second half, as a share; the first fills caches."""
        return self.end / self.middle - 1

    @property
    def is_flat(self) -> bool:
        return self.growth < FLAT_SHARE


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """`errors` is empty if all went well; `num_connections` equals the clients' number if all were kept."""

    num_answers: int
    num_pieces: int
    num_connections: int
    errors: tuple[str, ...]
    memory: Memory | None


def memory_of(samples: Sequence[int]) -> Memory | None:
    """From bytes in the order of measuring, the first before all answers; None for fewer than three."""
    if len(samples) < 3:
        return None
    return Memory(samples[0], samples[len(samples) // 2], samples[-1], max(samples))


async def run_crowd(
    base_url: str,
    api_key: str | None,
    plan: CrowdPlan,
    rss: Callable[[], int],
    show: Callable[[str], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> CrowdResult:
    """All clients connect; `at_once` warm-up answers; `on_start`; then the run. Raises `httpx.HTTPError`
    if the gateway does not answer at all. `rss` gives its resident bytes."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(gateway_client(base_url, api_key))
            for _ in range(plan.num_clients)
        ]
        [model, *_] = await asyncio.gather(*(client.model() for client in clients))
        crowd = _Crowd(plan, model, rss, show)
        show("Warming up")
        await asyncio.gather(*(crowd.ask(client, 0) for client in clients[: plan.at_once]))
        crowd.forget()
        on_start()
        await asyncio.gather(*(crowd.visit(number, client) for number, client in enumerate(clients)))
        num_connections = sum(client.num_connections for client in clients)
    return crowd.result(num_connections)


class _Crowd:
    """Counts what the clients get."""

    def __init__(
        self, plan: CrowdPlan, model: str, rss: Callable[[], int], show: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._model = model
        self._rss = rss
        self._show = show
        self._slots = asyncio.Semaphore(plan.at_once)
        self.forget()

    def forget(self) -> None:
        """Begin to count."""
        self._answers: list[StreamedChat] = []
        self._samples = [self._rss()]

    async def visit(self, number: int, client: GatewayClient) -> None:
        """All that one client asks."""
        for turn in range(self._plan.rounds):
            async with self._slots:
                await self.ask(client, number + turn)

    async def ask(self, client: GatewayClient, number: int) -> None:
        """One question, and what came of it."""
        question = f"Tell me about {_SUBJECTS[number % len(_SUBJECTS)]}, part {number}."
        self._answers.append(await client.chat(ChatTask(self._model, question, self._plan.num_tokens)))
        self._samples.append(self._rss())
        self._show(f"{len(self._answers)} of {self._plan.num_answers} answers")

    def result(self, num_connections: int) -> CrowdResult:
        answers = self._answers
        errors = tuple(answer.error for answer in answers if answer.error is not None)
        num_pieces = sum(len(answer.arrivals_s) for answer in answers)
        return CrowdResult(len(answers), num_pieces, num_connections, errors, memory_of(self._samples))
