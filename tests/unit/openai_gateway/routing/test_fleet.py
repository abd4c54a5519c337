"""Several targets in one gateway: the model of a request says which of them answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from edge_agent.api import Generator, TargetInfo, TokenizerBundle
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator, Script
from openai_gateway.app import create_app
from openai_gateway.routing import Fleet, ModelNames
from openai_gateway.target import LateGenerator

HI = [{"role": "user", "content": "x"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": HI, "max_tokens": 9},
    "/v1/responses": {"input": "x"},
    "/api/chat": {"messages": HI, "stream": False},
    "/api/generate": {"prompt": "x", "stream": False},
    "/completion": {"prompt": "x"},
}
NAMES = ModelNames.parse(["big=org/b", "small=default", "fast=org/target:local"])
URL = "http://b:8000"


@pytest.fixture
def first(generator_for: Callable[..., FakeGenerator]) -> FakeGenerator:
    return generator_for("hello")


@pytest.fixture
def second(target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script]) -> FakeGenerator:
    own = replace(target, model="org/b", max_model_len=99, has_draft=False, adapters=("poet",))
    return FakeGenerator(own, bundle, script_for("world"), {"status": "ok", "cloud": "reachable"})


@asynccontextmanager
async def gateway(
    first: Generator, others: dict[str, Generator], names: ModelNames = NAMES
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(first, names=names, others=others))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    ("model", "text"),
    [
        *((name, "hello") for name in ("org/target", "default", "", "small", "org/target:latest", "fast")),
        *((name, "world") for name in ("org/b", "big", "Big:latest", "org/b/", "poet")),
    ],
)
async def test_the_model_picks_the_target(
    first: FakeGenerator, second: FakeGenerator, path: str, model: str, text: str
) -> None:
    """Through every API, by its own name, an alias and an adapter's name; no name is the first one's."""
    named = {"model": model or "default"} if model or path.startswith("/api") else {}
    async with gateway(first, {URL: second}) as client:
        answer = await client.post(path, json={**named, **REQUESTS[path]})
    assert answer.status_code == 200, answer.text
    assert text in answer.text
    assert len((first if text == "hello" else second).records) == 1
    assert not (second if text == "hello" else first).records


async def test_routes_and_what_is_beside_the_chats(first: FakeGenerator, second: FakeGenerator) -> None:
    """`NAME:cloud`, tokens, embeddings and counts go to the server of that target, too."""
    tokens = FakeForwardedAnswer(200, [msgspec.json.encode({"tokens": [1], "count": 1, "data": []})])
    second.cloud = lambda path, body: tokens
    async with gateway(first, {URL: second}) as client:
        for path, body in (
            ("/tokenize", {"prompt": "x"}),
            ("/v1/embeddings", {"input": "x"}),
            ("/v1/messages/count_tokens", {"messages": HI, "tools": [{"name": "f", "input_schema": {}}]}),
        ):
            answer = await client.post(path, json={"model": "org/b", **body})
            assert answer.status_code == 200, answer.text
        await client.post("/v1/chat/completions", json={"model": "big:cloud", "messages": HI})
        local = await client.post("/v1/chat/completions", json={"model": "org/b:local", "messages": HI})
    assert [path for path, _ in second.forwarded] == [
        *("/tokenize", "/v1/embeddings", "/tokenize", "/v1/chat/completions")
    ]
    assert not first.forwarded
    assert (local.status_code, local.json()["error"]["code"]) == (400, "no_draft_model")


async def test_all_are_listed(first: FakeGenerator, second: FakeGenerator) -> None:
    """Each with its own context; aliases last. A name that is nobody's is a 404."""
    async with gateway(first, {URL: second}) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        tags = (await client.get("/api/tags")).json()["models"]
        props = (await client.get("/props")).json()
        other_props = (await client.get("/props", params={"model": "big"})).json()
        card = (await client.get("/v1/models/big")).json()
        shown = await client.post("/api/show", json={"model": "org/b:latest"})
        health = (await client.get("/health")).json()
        unknown = await client.post("/v1/chat/completions", json={"model": "org/c", "messages": HI})
    names = [
        *("org/target", "org/target:cloud", "org/target:local", "org/b", "org/b:cloud", "poet"),
        *("big", "small", "fast"),
    ]
    assert [each["id"] for each in cards] == [each["name"] for each in tags] == props["models"] == names
    contexts = {each["id"]: each["max_model_len"] for each in cards}
    assert (contexts["org/b"], contexts["big"], contexts["small"]) == (99, 99, contexts["org/target"])
    assert (props["model_alias"], other_props["model_alias"]) == ("org/target", "org/b")
    assert (card["id"], card["max_model_len"]) == ("big", 99)
    assert shown.status_code == 200
    assert health["targets"] == {"org/target": "ok", "org/b": "reachable"}
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_any_name_is_the_first_ones(first: FakeGenerator, second: FakeGenerator) -> None:
    """But for those that others have; no server is asked about each of them."""
    names = ModelNames(any_model=True)
    async with gateway(first, {URL: second}, names) as client:
        for model in ("gpt-4o", "org/b"):
            await client.post("/v1/chat/completions", json={"model": model, "messages": HI})
    assert (len(first.records), len(second.records)) == (1, 1)


async def test_the_first_one_is_away(first: FakeGenerator, second: FakeGenerator) -> None:
    """The other answers to its names; what is asked of the first is not answered by another model."""
    first.unreachable = CloudUnreachable("away")
    async with gateway(first, {URL: second}) as client:
        theirs = await client.post("/v1/chat/completions", json={"model": "org/b", "messages": HI})
        mine = await client.post("/v1/chat/completions", json={"model": "default", "messages": HI})
        aliased = await client.post("/v1/chat/completions", json={"model": "small", "messages": HI})
        cards = (await client.get("/v1/models")).json()["data"]
    assert [each.status_code for each in (theirs, mine, aliased)] == [200, 503, 503]
    assert len(second.records) == 1
    assert "org/b" in [each["id"] for each in cards]


async def test_another_one_is_away_and_comes(first: FakeGenerator, second: FakeGenerator) -> None:
    """It is left out and told of, the first is as it was; once it is there it is as if it always had been."""
    is_there = asyncio.Event()

    async def start() -> Generator:
        if not is_there.is_set():
            raise CloudUnreachable("no verifier answers")
        return second

    late = LateGenerator(URL, start, retry_s=0.01)
    await late.tried()
    async with gateway(first, {URL: late}) as client:
        mine = await client.post("/v1/chat/completions", json={"messages": HI})
        theirs = await client.post("/v1/chat/completions", json={"model": "org/b", "messages": HI})
        cards = (await client.get("/v1/models")).json()["data"]
        health = (await client.get("/health")).json()
        assert (mine.status_code, theirs.status_code) == (200, 404)
        assert "big" not in [each["id"] for each in cards]
        assert (health["status"], health["targets"]["target 2"]) == ("ok", "out of reach")
        is_there.set()
        while "org/b" not in (await client.get("/v1/models")).text:  # noqa: ASYNC110 - it is told by asking
            await asyncio.sleep(0.01)
        theirs = await client.post("/v1/chat/completions", json={"model": "big", "messages": HI})
        assert (theirs.status_code, "world" in theirs.text) == (200, True)
        second.unreachable = CloudUnreachable("gone again")
        mine = await client.post("/v1/chat/completions", json={"messages": HI})
        assert (mine.status_code, (await client.get("/v1/models")).status_code) == (200, 200)
    await late.close()
    assert second.closed


async def test_a_server_that_swallows_everything_holds_nobody_up(
    first: FakeGenerator, second: FakeGenerator
) -> None:
    """What is known of it stands; its health is not waited for."""

    class Swallowing(LateGenerator):
        async def target(self, *, offline: bool = False, max_age_s: float = math.inf) -> TargetInfo:
            if not offline:
                await asyncio.Event().wait()
            return await super().target(offline=offline)

        async def health(self) -> dict[str, str]:
            return await asyncio.Future()

    async def start() -> Generator:
        return second

    swallowing = Swallowing(URL, start)
    await swallowing.tried()
    fleet = Fleet({"a": first, URL: swallowing}, NAMES, patience_s=0.01)
    assert "org/b" in [listed.name for listed in await fleet.listed()]
    assert (await fleet.pick("big")).label == URL
    assert (await fleet.pick("nobody's")).label == "a"
    assert (await fleet.health())["targets"] == {"org/target": "ok", "org/b": "out of reach"}
    await swallowing.close()


async def test_a_target_that_never_comes_is_let_go() -> None:
    """Closing ends what is under way; an unexpected fault of its start does not hold the gateway up."""

    async def never() -> Generator:
        await asyncio.Event().wait()
        raise AssertionError

    late = LateGenerator(URL, never)
    await asyncio.sleep(0)
    with pytest.raises(CloudUnreachable, match="not reached yet"):
        await late.target()
    await late.close()

    async def broken() -> Generator:
        raise ValueError("secret")

    late = LateGenerator(URL, broken)
    await late.tried()
    with pytest.raises(CloudUnreachable, match="log says why"):
        late.ask(None)  # type: ignore[arg-type]
    assert (await late.health())["cloud"] == "out of reach"
    await late.close()
