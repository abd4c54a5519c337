"""Plain vLLM on the stopwatch, over its own HTTP API, and what its plugin says of its own code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from types import TracebackType
from typing import Any, Final, Protocol, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.rounds import PROMPT, Clock
from openai_gateway.cli.errors import CliError

__all__ = ["HttpPlainApi", "OwnCode", "PlainApi", "parse_own_code"]

_OWN: Final = "pipesd_own_seconds"
_WARM_UP: Final = 5
_TOKEN: Final = "data: {"
_SHORTEST_PROMPT: Final = PROMPT[:1]
"""A pass over it costs what the pass for one more token costs."""


@dataclass(frozen=True, slots=True)
class OwnCode:
    """Time in the plugin's own code, in ms: totals since the server's start, or of one verify round."""

    num_rounds: float
    receive_ms: float
    schedule_ms: float
    send_ms: float

    @property
    def total_ms(self) -> float:
        return self.receive_ms + self.schedule_ms + self.send_ms

    def a_round_since(self, before: OwnCode) -> OwnCode | None:
        """The mean of the rounds in between; None if there was none."""
        num = self.num_rounds - before.num_rounds
        if not num:
            return None
        return OwnCode(
            1,
            (self.receive_ms - before.receive_ms) / num,
            (self.schedule_ms - before.schedule_ms) / num,
            (self.send_ms - before.send_ms) / num,
        )

    @staticmethod
    def median(many: Sequence[OwnCode]) -> OwnCode:
        """Each part's median."""
        return OwnCode(
            1,
            median(each.receive_ms for each in many),
            median(each.schedule_ms for each in many),
            median(each.send_ms for each in many),
        )


class PlainApi(Protocol):
    """The server without our protocol. All methods raise `CliError`."""

    async def token_gaps_ms(self, num_tokens: int) -> list[float]:
        """From one to the next of `num_tokens` streamed tokens, after a warm-up."""

    async def reply_ms(self) -> float:
        """A prompt of one token answered with one token."""

    async def own_code(self) -> OwnCode | None:
        """Totals of the plugin's own code; None if the server does not tell."""


class HttpPlainApi:
    """`PlainApi` over one kept connection; a context manager."""

    def __init__(self, client: httpx.AsyncClient, clock: Clock = time.perf_counter) -> None:
        """`client` knows the server's address and key."""
        self._client = client
        self._clock = clock
        self._model: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def token_gaps_ms(self, num_tokens: int) -> list[float]:
        body = await self._body(PROMPT, num_tokens + _WARM_UP + 1)
        try:
            async with self._client.stream(
                "POST", "/v1/completions", json={**body, "stream": True}
            ) as answer:
                answer.raise_for_status()
                arrivals_s = [self._clock() async for line in answer.aiter_lines() if line.startswith(_TOKEN)]
        except httpx.HTTPError as error:
            raise _failed(error) from error
        gaps = [(b - a) * 1e3 for a, b in pairwise(arrivals_s[_WARM_UP:])]
        if not gaps:
            raise CliError("The server's /v1/completions streamed nothing.")
        return gaps

    async def reply_ms(self) -> float:
        body = await self._body(_SHORTEST_PROMPT, 1)
        started_s = self._clock()
        await self._request("POST", "/v1/completions", body)
        return (self._clock() - started_s) * 1e3

    async def own_code(self) -> OwnCode | None:
        return parse_own_code((await self._request("GET", "/metrics")).text)

    async def _body(self, prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
        if self._model is None:
            self._model = (await self._request("GET", "/v1/models")).json()["data"][0]["id"]
        return {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = await self._client.request(method, path, json=body)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise _failed(error) from error
        return response


def _failed(error: httpx.HTTPError) -> CliError:
    return CliError(f"The server's own API does not answer: {error!r}")


def parse_own_code(text: str) -> OwnCode | None:
    """Totals out of a page of metrics."""
    sums: dict[str, float] = {}
    num_rounds = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{_OWN}_sum":
                part = sample.labels["part"]
                sums[part] = sums.get(part, 0.0) + sample.value * 1e3
            elif sample.name == f"{_OWN}_count" and sample.labels["part"] == "receive":
                num_rounds += sample.value
    if not {"receive", "schedule", "send"} <= sums.keys():
        return None
    return OwnCode(num_rounds, sums["receive"], sums["schedule"], sums["send"])
