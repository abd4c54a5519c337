"""The verifier's plain HTTP routes, with a transport in the network's place."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from edge_agent.api import TargetInfo
from edge_agent.errors import CloudMisbehaved, CloudRefused, CloudUnreachable
from edge_agent.verifier import CloudApi

Handler = Callable[[httpx.Request], httpx.Response]
PATH = "/v1/chat/completions"


@pytest.fixture
async def api_for(tmp_path: Path) -> AsyncIterator[Callable[[Handler], CloudApi]]:
    """`api_for(handler)`: an API client of a server that answers as `handler` does."""
    made = []

    def make(handler: Handler) -> CloudApi:
        api = CloudApi("http://verifier", "sk-agent", 1.0, tmp_path, httpx.MockTransport(handler))
        made.append(api)
        return api

    yield make
    for api in made:
        await api.close()


async def test_forward(api_for: Callable[[Handler], CloudApi]) -> None:
    """Body and the agent's own key go up as they are; status and body come back, whatever they are."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(418, content=b"tea")

    answer = await api_for(handle).forward(PATH, b'{"a":1}')
    assert (answer.status, await answer.read()) == (418, b"tea")
    await answer.aclose()
    await answer.aclose()
    [request] = seen
    assert (request.url.path, request.content) == (PATH, b'{"a":1}')
    assert request.headers["authorization"] == "Bearer sk-agent"
    assert request.headers["content-type"] == "application/json"


async def test_forward_to_nobody(api_for: Callable[[Handler], CloudApi]) -> None:
    """A server that does not answer is out of reach, and the message names it."""

    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(CloudUnreachable, match="http://verifier"):
        await api_for(handle).forward(PATH, b"{}")


async def broken_body() -> AsyncIterator[bytes]:
    yield b"half"
    raise httpx.ReadError("reset")


async def test_an_answer_that_breaks_off(api_for: Callable[[Handler], CloudApi]) -> None:
    """Half an answer is not passed off as the whole."""
    answer = await api_for(lambda _: httpx.Response(200, content=broken_body())).forward(PATH, b"{}")
    with pytest.raises(CloudUnreachable, match="lost"):
        await answer.read()
    await answer.aclose()


@pytest.mark.parametrize(
    ("status", "error"), [(401, CloudRefused), (404, CloudRefused), (500, CloudUnreachable)]
)
async def test_statuses(api_for: Callable[[Handler], CloudApi], status: int, error: type[Exception]) -> None:
    """A wrong key and a server without the plugin are refusals; anything else may pass."""
    with pytest.raises(error):
        await api_for(lambda _: httpx.Response(status)).target()


async def test_something_else_answers(api_for: Callable[[Handler], CloudApi]) -> None:
    """A page in the place of the verifier's description is not taken for one, nor remembered."""
    api = api_for(lambda _: httpx.Response(200, content=b"<html>"))
    with pytest.raises(CloudMisbehaved):
        await api.target()
    assert api.remembered() is None


def damage(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"damaged")


async def test_a_damaged_memory_is_none(api_for: Callable[[Handler], CloudApi], tmp_path: Path) -> None:
    """What lies in the cache but cannot be read is left alone."""
    info = {
        "model": "m",
        "max_model_len": 9,
        "vocab_size": 3,
        "fingerprint": {"num_tokens": 3, "sha256": "ab"},
    }
    api = api_for(lambda _: httpx.Response(200, content=msgspec.json.encode(info)))
    assert await api.target() == TargetInfo("m", 9, 3)
    damage(tmp_path)
    later = api_for(lambda _: httpx.Response(503))
    assert later.remembered() is None


async def test_the_servers_reasoning_parser(api_for: Callable[[Handler], CloudApi]) -> None:
    """A server that splits reasoning from content says by which parser."""
    fingerprint = {"num_tokens": 3, "sha256": "ab"}
    info = {"model": "m", "max_model_len": 9, "vocab_size": 3, "fingerprint": fingerprint}
    body = msgspec.json.encode(info | {"reasoning_parser": "qwen3"})
    target = await api_for(lambda _: httpx.Response(200, content=body)).target()
    assert target.reasoning_parser == "qwen3"


async def test_what_the_server_gives_its_template(api_for: Callable[[Handler], CloudApi]) -> None:
    """The form of contents and the template's variables come with the tokenizer."""
    fingerprint = {"num_tokens": 3, "sha256": "ab"}
    info = {"model": "m", "max_model_len": 9, "vocab_size": 3, "fingerprint": fingerprint}
    tokenizer = {
        "tokenizer_json": "{}",
        "chat_template": None,
        "special_tokens": {},
        "eos_token_ids": [],
        "content_format": "openai",
        "template_variables": {"enable_thinking": False},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        body = tokenizer if request.url.path.endswith("tokenizer") else info
        return httpx.Response(200, content=msgspec.json.encode(body))

    bundle = await api_for(answer).tokenizer()
    assert (bundle.content_format, bundle.template_variables) == ("openai", {"enable_thinking": False})


async def test_a_distant_server_is_reached_again(tmp_path: Path) -> None:
    """After an outage each timeout doubles the time for the next attempt, until the server can answer."""
    needed_s, given_s = 0.0, []

    def handle(request: httpx.Request) -> httpx.Response:
        given_s.append(request.extensions["timeout"]["connect"])
        if given_s[-1] < needed_s:
            raise httpx.ConnectTimeout("too slow")
        return httpx.Response(200)

    api = CloudApi("http://verifier", None, 30.0, tmp_path, httpx.MockTransport(handle))
    needed_s = 60.0
    assert not await api.is_healthy()
    needed_s = 3.5
    assert [await api.is_healthy() for _ in range(4)] == [False, False, True, True]
    assert given_s == [30.0, 1.0, 2.0, 4.0, 30.0]
    await api.close()
