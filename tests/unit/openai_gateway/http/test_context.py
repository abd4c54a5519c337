"""Ids of requests, labels of keys, and what is told of requests that were refused."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from edge_agent.errors import CloudUnreachable, ConfigError
from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.errors import BodyTooSlow
from openai_gateway.http import CURRENT, ApiKeys, HttpRequest, read_body, read_keys
from openai_gateway.observe import GatewayMetrics, RequestLog
from openai_gateway.observe.request_log import json_logging

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "x"}]}
MakeFake = Callable[..., FakeGenerator]
MakeClient = Callable[[FastAPI], httpx.AsyncClient]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", CHAT, BODY, 200),
        ("POST", CHAT, BODY | {"stream": True}, 200),
        ("POST", CHAT, BODY | {"best_of": 2}, 400),
        ("POST", "/v1/nothing", {}, 404),
        ("GET", "/v1/messages", None, 405),
        ("GET", "/health", None, 200),
        ("POST", "/v1/messages", {}, 400),
    ],
)
async def test_a_requests_id_goes_out_again(
    generator_for: MakeFake, client_for: MakeClient, method: str, path: str, body: Any, status: int
) -> None:
    """On every answer, errors too; upstream it names the generation; Anthropic's errors have it inside."""
    generator = generator_for()
    async with client_for(create_app(generator)) as client:
        answer = await client.request(method, path, json=body, headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine-1")
    for record in generator.records:
        assert record.request.request_id.startswith("mine-1-")
    if path == "/v1/messages":
        assert answer.json()["request_id"] == "mine-1"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é"])
async def test_an_id_that_is_none_is_replaced(
    generator_for: MakeFake, client_for: MakeClient, given: str | None
) -> None:
    """What could not stand in a log or header gets one of ours, another each time."""
    headers = {} if given is None else {"x-request-id": given.encode()}
    async with client_for(create_app(generator_for())) as client:
        ids = {(await client.get("/health", headers=headers)).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


async def test_one_record_of_each_failure(generator_for: MakeFake, client_for: MakeClient) -> None:
    """With id, key's label, model and status: of answers, and of what was refused before it could be one."""
    out = io.StringIO()
    metrics = GatewayMetrics()
    keys = ApiKeys({"k": "office"})
    failing = generator_for(error=CloudUnreachable("gone"))
    app = create_app(failing, keys=keys, metrics=metrics, observers=[RequestLog("json", out)])
    good = {"authorization": "Bearer k"}
    async with client_for(app) as client:
        await client.post(CHAT, json=BODY)
        await client.post("/v1/nothing", headers=good)
        await client.post(CHAT, content=b" " * (17 << 20), headers=good)
        await client.post(CHAT, json=BODY, headers=good)
        await client.get("/health")
        await client.request("BREW", "/health")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["status"], line["error"], line.get("key")) for line in lines] == [
        (401, "invalid_api_key", None),
        (404, "invalid_request_error", None),
        (413, "request_too_large", "office"),
        (503, "cloud_unreachable", "office"),
        (405, "invalid_request_error", None),
    ]
    assert all(len(line["request_id"]) == 32 for line in lines)

    def counted(path: str, status: int, method: str = "POST") -> float | None:
        labels = {"method": method, "path": path, "status": str(status)}
        return metrics.registry.get_sample_value("pipesd_gateway_http_requests_total", labels)

    assert counted(CHAT, 401) == counted("(none)", 404) == counted(CHAT, 413) == counted(CHAT, 503) == 1
    assert counted("/health", 200, "GET") == 1
    assert counted("/health", 405, "BREW") is None


async def test_what_nobody_expected_is_logged_once(
    generator_for: MakeFake, client_for: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback, whoever notices it."""
    async with client_for(create_app(generator_for(error=ValueError("bug")))) as client:
        for stream in (False, True):
            caplog.clear()
            answer = await client.post(CHAT, json=BODY | {"stream": stream})
            assert answer.status_code == 500
            errors = [record for record in caplog.records if record.levelname == "ERROR"]
            assert [record.exc_info is not None for record in errors] == [True]


def test_other_logs_are_json_too() -> None:
    """One line of JSON for each record, its traceback in a field, and the request that it was about."""
    out = io.StringIO()
    handler = json_logging(out)
    token = CURRENT.set(HttpRequest("mine-2"))
    try:
        logger = logging.Logger("some.library")
        logger.addHandler(handler)
        try:
            raise ValueError("bug")
        except ValueError:
            logger.exception("text %s", "x")
    finally:
        CURRENT.reset(token)
    [line] = out.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"], entry["logger"]) == ("text x", "error", "some.library")
    assert entry["request_id"] == "mine-2"
    assert "ValueError: bug" in entry["exception"]


async def test_keys_have_labels_and_limits(generator_for: MakeFake, client_for: MakeClient) -> None:
    """Each key is let in; a second request with one that allows a single one waits its turn."""
    generator = generator_for(first_delay_s=60.0)
    app = create_app(generator, keys=ApiKeys({"a": "ann", "b": "bob"}, limit=1))
    async with client_for(app) as client:
        first = asyncio.create_task(client.post(CHAT, json=BODY, headers={"x-api-key": "a"}))
        await asyncio.wait_for(generator.asked.wait(), 20.0)
        refused = await client.post(CHAT, json=BODY, headers={"authorization": "Bearer a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/v1/models", headers={"x-api-key": "b"})).status_code == 200
        assert (await client.get("/v1/models", headers={"x-api-key": "c"})).status_code == 401
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for _ in range(3):  # those that ended leave their place
            assert (await client.get("/v1/models", headers={"x-api-key": "a"})).status_code == 200


def test_a_file_of_keys(tmp_path: Path) -> None:
    """A label and a key on each line, or a key alone; lines of comments and empty ones are passed over.

    A `#` in a line is the key's: a label must never be taken for a key.
    """
    file = tmp_path / "keys"
    file.write_text("# office\nann  sk-1\n\nsk-2\nbob #sk\neve s#3\n", encoding="utf-8")
    assert read_keys(file) == {"sk-1": "ann", "sk-2": "line 4", "#sk": "bob", "s#3": "eve"}


@pytest.mark.parametrize(
    "text", ["", "# none\n", "a b c\n", "a k # b\n", "a k\nb k\n", "a k\na j\n", "k\x07\n"]
)
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    """It is told at the start, with the line."""
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="keys"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "nothing")


async def test_a_body_that_stops() -> None:
    """A client that sends half of its body and then nothing does not hold its place for ever."""
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        for message in messages:
            return message
        await asyncio.Event().wait()
        return None

    request = Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)
    with pytest.raises(BodyTooSlow) as caught:
        await read_body(request, timeout_s=0.01)
    assert caught.value.status == 408
