"""A raw edge for tests: frames as they are, no drafting, no recovery, nothing tolerated.

Also what the tests compare with: the same server's plain completions and its metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pipesd_vllm.wire import (
    MAX_FRAME_BYTES,
    SESSION_PATH,
    SUBPROTOCOL,
    Commit,
    Downstream,
    Mode,
    Open,
    Refused,
    Sampling,
    Upstream,
    Welcome,
    decode_downstream,
    encode_in_parts,
)
from tests.conftest import Verifier

DEADLINE_S = 60.0
"""Far beyond what any single answer takes, so that a hang fails instead of blocking the run."""


class Edge:
    """One connection. `welcome` has been read."""

    def __init__(self, socket: ClientConnection, welcome: Welcome) -> None:
        self.socket = socket
        self.welcome = welcome

    async def send(self, *messages: Upstream) -> None:
        for message in messages:
            for data in encode_in_parts(message):
                await self.socket.send(data)

    async def receive(self, timeout_s: float = DEADLINE_S) -> Downstream:
        """The next frame. Raises `TimeoutError`, `ConnectionClosed`."""
        data = await asyncio.wait_for(self.socket.recv(), timeout_s)
        assert isinstance(data, bytes)
        return decode_downstream(data)

    async def commit(self, turn: int, timeout_s: float = DEADLINE_S) -> Commit:
        """The next frame, which must be a commit of `turn`."""
        message = await self.receive(timeout_s)
        assert isinstance(message, Commit), message
        assert message.turn == turn
        return message

    async def rest_of(self, turn: int, base: int) -> list[int]:
        """All tokens of `turn` from position `base` to its end, each position once and in order."""
        tokens: list[int] = []
        while True:
            commit = await self.commit(turn)
            assert commit.base == base + len(tokens)
            tokens += commit.tokens
            if commit.finish_reason is not None:
                assert commit.finish_reason == "length"
                return tokens

    async def generate(self, prompt: Sequence[int], num_tokens: int, turn: int = 1000) -> list[int]:
        """A whole turn decoded by the server alone."""
        await self.send(opening(prompt, num_tokens, turn=turn, mode=Mode.LATENCY))
        return await self.rest_of(turn, len(prompt))

    async def refusal(self, turn: int) -> Refused:
        message = await self.receive()
        assert isinstance(message, Refused), message
        assert message.turn == turn
        return message

    async def closed_by_server(self) -> tuple[int, str]:
        """Read on until the server closes; its code and reason."""
        with suppress(ConnectionClosed):
            while True:
                await self.receive()
        code, reason = self.socket.close_code, self.socket.close_reason
        assert code not in (None, 1006), "the connection broke off without a close frame"
        return code, reason or ""

    def break_off(self) -> None:
        """Lose the connection: no close frame, as if the cable was cut."""
        self.socket.transport.abort()


def dial(verifier: Verifier, **options: Any) -> connect:
    """A connection attempt, with the right key and subprotocol unless `options` say otherwise."""
    settings: dict[str, Any] = {
        "additional_headers": verifier.headers,
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "open_timeout": DEADLINE_S,
    } | options
    url = verifier.base_url.replace("http", "ws", 1) + SESSION_PATH
    no_queue = None  # an edge that stops reading answers no pings either
    return connect(
        url, compression=None, proxy=None, max_size=MAX_FRAME_BYTES, max_queue=no_queue, **settings
    )


@asynccontextmanager
async def edge_of(verifier: Verifier) -> AsyncIterator[Edge]:
    """A connection whose greeting has been read."""
    async with dial(verifier) as socket:
        data = await asyncio.wait_for(socket.recv(), DEADLINE_S)
        assert isinstance(data, bytes)
        welcome = decode_downstream(data)
        assert isinstance(welcome, Welcome)
        yield Edge(socket, welcome)


def opening(
    prompt: Sequence[int],
    num_tokens: int,
    *,
    turn: int = 1,
    mode: Mode = Mode.OFFLOAD,
    patience_ms: int = 500,
    committed: Sequence[int] = (),
) -> Open:
    """A greedy turn of exactly `num_tokens` tokens."""
    sampling = Sampling(max_tokens=num_tokens, ignore_eos=True)
    return Open(turn, list(prompt), sampling, mode, patience_ms, list(committed))


def target_only(verifier: Verifier, prompt: Sequence[int], num_tokens: int, **fields: Any) -> dict[str, Any]:
    """The choice that the server's own completions route gives, past any end token; `fields` are its own."""
    body = {
        "model": verifier.model,
        "prompt": list(prompt),
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    url = f"{verifier.base_url}/v1/completions"
    answer = httpx.post(
        url, json=body | fields, headers=verifier.headers, timeout=DEADLINE_S, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def plain_tokens(verifier: Verifier, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What the server's own completions route decodes greedily, past any end token."""
    tokens: list[int] = target_only(verifier, prompt, num_tokens, temperature=0)["token_ids"]
    assert len(tokens) == num_tokens
    return tokens


async def samples(verifier: Verifier) -> list[Sample]:
    """What the server's `/metrics` shows now."""
    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        page = (await client.get(f"{verifier.base_url}/metrics")).text
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


async def metric(verifier: Verifier, *names: str) -> float:
    """The sum of these metrics on `/metrics`, over all their labels."""
    found = [sample for sample in await samples(verifier) if sample.name in names]
    assert set(names) == {sample.name for sample in found}, f"not on /metrics: one of {names}"
    return sum(sample.value for sample in found)


_COMPLETED = {
    ("vllm:request_success_total", "finished_reason", "stop"),
    ("vllm:request_success_total", "finished_reason", "length"),
    ("pipesd_turns_total", "reason", "finished"),
}
"""Metric, label and value. vLLM does not count the requests of turns."""


async def num_completed(verifier: Verifier) -> float:
    """Requests and turns that ran to their end; aborted ones do not count."""
    return sum(
        sample.value
        for sample in await samples(verifier)
        if any((sample.name, label, value) in _COMPLETED for label, value in sample.labels.items())
    )


@asynccontextmanager
async def cut_short(verifier: Verifier, num_completed_within: int = 0) -> AsyncIterator[None]:
    """Whatever the block leaves behind, the engine drops it before its end.

    `num_completed_within`: how many other requests come to their end in the block.
    """
    before = await num_completed(verifier)
    yield
    await until_idle(verifier)
    assert await num_completed(verifier) == before + num_completed_within


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float, what: str) -> None:
    """Poll `condition` until it holds; fail with `what` after `deadline_s`."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await condition():  # noqa: ASYNC110 - a metrics page gives no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} took more than {deadline_s} s") from None


async def until_running(verifier: Verifier, num_turns: int, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the server says that `num_turns` are under way."""

    async def running() -> bool:
        return await metric(verifier, "pipesd_open_turns") == num_turns

    await until(running, deadline_s, f"{num_turns} turns on the server")


async def until_idle(verifier: Verifier, deadline_s: float = DEADLINE_S) -> None:
    """Wait until there is no turn, no request in the engine and no KV block in use."""

    async def idle() -> bool:
        names = "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"
        return not await metric(verifier, "pipesd_open_turns", *names)

    await until(idle, deadline_s, "an idle server")
