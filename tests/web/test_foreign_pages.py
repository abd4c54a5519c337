"""Pages of another site, in a real browser, against a gateway without a key (docs/security.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from fastapi import FastAPI, Response
from playwright.async_api import Browser, Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.http.access import AccessPolicy
from tests.contract.scripted import answering, gateway
from tests.e2e.stack import serving

pytestmark = pytest.mark.asyncio(loop_scope="package")

ANSWER = "hello world"
DEADLINE_S = 60.0
POST = """async ([url, type, mode]) => {
  const body = JSON.stringify({messages: [{role: "user", content: "hello"}]});
  try {
    const answer = await fetch(url, {method: "POST", mode, body, headers: {"content-type": type}});
    return mode === "no-cors" ? answer.type : `${answer.status} ${await answer.text()}`;
  } catch (error) {
    return error.name;
  }
}"""
BEACON = (
    """async (url) => navigator.sendBeacon(url, '{"messages": [{"role": "user", "content": "hello"}]}')"""
)
FORM = """async (url) => {
  const frame = Object.assign(document.createElement("iframe"), {name: "sink"});
  const form = Object.assign(document.createElement("form"),
    {method: "POST", action: url, target: "sink", enctype: "text/plain"});
  const field = Object.assign(document.createElement("input"),
    {name: '{"messages": [{"role": "user", "content": "hello', value: '"}]}'});
  form.append(field);
  document.body.append(frame, form);
  form.submit();
}"""
SANDBOXED = """async (url) => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.srcdoc = `<script>fetch("${url}", {method: "POST", mode: "no-cors", body:
    '{"messages": [{"role": "user", "content": "hello"}]}'})</script>`;
  document.body.append(frame);
}"""
SUBRESOURCE = """([url, kind]) => new Promise((done) => {
  const made = Object.assign(document.createElement(kind), {src: url, onload: done, onerror: done});
  document.body.append(made);
})"""


@dataclass
class Visit:
    """A browser's page of a site other than the gateway's, and the statuses of what the gateway answered."""

    page: Page
    generator: FakeGenerator
    gateway: str
    statuses: asyncio.Queue[int]

    @property
    def chat(self) -> str:
        return f"{self.gateway}/v1/chat/completions"


def recording(app: ASGIApp, statuses: asyncio.Queue[int]) -> ASGIApp:
    """`app`, with the status of each answer kept: the browser hides some of them from its own tools."""

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.put_nowait(message["status"])
            await send(message)

        await app(scope, receive, sent)

    return recorded


@asynccontextmanager
async def visiting(browser: Browser, host: str) -> AsyncIterator[Visit]:
    """A page on `host`, on a port of its own, while a gateway runs."""
    site, generator = FastAPI(), answering(ANSWER)

    @site.get("/")
    async def page_of_site() -> Response:
        return Response("<title>site</title><body></body>", media_type="text/html")

    statuses: asyncio.Queue[int] = asyncio.Queue()
    guarded = recording(create_app(generator), statuses)
    async with serving(site) as site_url, serving(guarded) as url:  # type: ignore[arg-type]
        page = await browser.new_page()
        visit = Visit(page, generator, url, statuses)
        try:
            await page.goto(site_url.replace("127.0.0.1", host))
            yield visit
        finally:
            await page.context.close()


@pytest.mark.parametrize("mode", ["cors", "no-cors"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
async def test_a_foreign_page_cannot_ask(browser: Browser, content_type: str, mode: str) -> None:
    """A fetch from another site, with and without a preflight, reads nothing and generates nothing."""
    async with visiting(browser, "attacker.test") as visit:
        got = await visit.page.evaluate(POST, [visit.chat, content_type, mode])
    assert got == ("opaque" if mode == "no-cors" else "TypeError")
    assert visit.generator.records == []


async def test_the_same_page_may_ask_once_it_is_allowed(browser: Browser) -> None:
    """With --allow-origin the page of the test above reads the answer: what stops it is the gateway."""
    async with visiting(browser, "attacker.test") as visit:
        origin = await visit.page.evaluate("location.origin")
        access = AccessPolicy(origins=frozenset({origin}))
        async with gateway(visit.generator, access=access) as open_gateway:
            chat = f"{open_gateway}/v1/chat/completions"
            for content_type in ("text/plain", "application/json"):
                got = await visit.page.evaluate(POST, [chat, content_type, "cors"])
                assert got.startswith("200 ")
                assert ANSWER in got


@pytest.mark.parametrize("attack", [BEACON, FORM, SANDBOXED])
async def test_ways_around_fetch(browser: Browser, attack: str) -> None:
    """A beacon, a form and a frame without an origin (`Origin: null`) get a 403 and generate nothing."""
    async with visiting(browser, "attacker.test") as visit:
        await visit.page.evaluate(attack, visit.chat)
        assert await asyncio.wait_for(visit.statuses.get(), DEADLINE_S) == 403
    assert visit.generator.records == []


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/health", "/openapi.json", "/"])
async def test_subresources(browser: Browser, path: str) -> None:
    """Nothing of the gateway can be put into a page of another site, not even to see whether it is there."""
    async with visiting(browser, "attacker.test") as visit:
        for kind in ("img", "script", "iframe"):
            await visit.page.evaluate(SUBRESOURCE, [f"{visit.gateway}{path}", kind])
            assert visit.statuses.get_nowait() == 403


async def test_dns_rebinding(browser: Browser) -> None:
    """A name that has come to mean 127.0.0.1 is the gateway's own origin to the browser, and gets nothing."""
    async with visiting(browser, "attacker.test") as visit:
        rebound = visit.gateway.replace("127.0.0.1", "rebound.test")
        arrived = await visit.page.goto(f"{rebound}/health")
        assert arrived is not None
        assert arrived.status == 403
        for content_type in ("text/plain", "application/json"):
            path = "/v1/chat/completions"
            got = await visit.page.evaluate(POST, [path, content_type, "same-origin"])
            assert got.startswith("403 ")
            assert "host_not_allowed" in got
    assert visit.generator.records == []


async def test_a_link_to_the_page_works(browser: Browser) -> None:
    """From another site the gateway's page can be gone to, and used there."""
    async with visiting(browser, "attacker.test") as visit:
        await visit.page.evaluate("url => { location.href = url }", f"{visit.gateway}/")
        await expect(visit.page.locator("#state")).to_contain_text("ready")
        await visit.page.fill("#prompt", "hello")
        await visit.page.keyboard.press("Enter")
        await expect(visit.page.locator(".turn.assistant .text")).to_have_text(ANSWER)
    assert {visit.statuses.get_nowait() for _ in range(visit.statuses.qsize())} == {200}


async def test_a_page_of_this_machine_may_ask(browser: Browser) -> None:
    """A page on localhost, on another port, asks and reads as before, preflight included."""
    async with visiting(browser, "localhost") as visit:
        for content_type in ("text/plain", "application/json"):
            got = await visit.page.evaluate(POST, [visit.chat, content_type, "cors"])
            assert got.startswith("200 ")
            assert ANSWER in got
