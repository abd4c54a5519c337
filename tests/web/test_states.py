"""What the page says of gateway and server, and that it finds out by itself."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
import uvicorn
from playwright.async_api import Page, expect

from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from tests.contract.scripted import MODEL, answering

from .conftest import OpenPage

pytestmark = pytest.mark.asyncio(loop_scope="package")

AT_REST_MS, AWAY_MS = 10_000, 2_000
"""How long the page waits before it asks again."""


class Gateway:
    """A gateway on a port of its own that can be stopped and started."""

    def __init__(self, **others: FakeGenerator) -> None:
        self._others = others
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    async def start(self) -> None:
        app = create_app(answering("hello world"), others=self._others)
        config = uvicorn.Config(app, port=self.port, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve())

    async def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        await self._task


async def test_a_gateway_that_goes_and_comes_back(browser: object) -> None:
    """Without a reload: it is said that nothing answers, and chats go on once something does."""
    gateway = Gateway()
    await gateway.start()
    page = await browser.new_page()  # type: ignore[attr-defined]
    try:
        await page.goto(f"http://127.0.0.1:{gateway.port}")
        await expect(page.locator("#state")).to_contain_text("ready")
        await gateway.stop()
        await page.fill("#prompt", "hello")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("Is it still running?")
        await expect(page.locator("#state")).to_contain_text("does not answer")
        await gateway.start()
        await expect(page.locator("#state")).to_contain_text("ready")
        await page.get_by_role("button", name="Answer again").click()
        await expect(page.locator(".turn.assistant .text").last).to_have_text("hello world")
    finally:
        await page.context.close()
        await gateway.stop()


async def test_a_server_that_is_there_later(open_page: OpenPage) -> None:
    """Models that could not be told at first are there once the server is, and the state says so."""
    generator = answering("hello world")
    generator.unreachable = CloudUnreachable("no verifier answers")
    generator._health["status"] = "degraded"
    async with open_page(generator) as page:
        await expect(page.locator("#state")).to_contain_text("server out of reach")
        assert await page.locator("#model option").count() == 1
        generator.unreachable = None
        generator._health["status"] = "ok"
        await expect(page.locator("#state")).to_contain_text("ready")
        await expect(page.locator("#model option")).to_have_count(3)
        await expect(page.locator("#model")).to_have_value(MODEL)


async def test_several_targets_are_there_to_choose_from(browser: object) -> None:
    """Also one that comes later; the one that is chosen answers."""
    other = answering("from afar")
    other._target = replace(other._target, model="org/other")
    other.unreachable = CloudUnreachable("no verifier answers")
    other._health["status"] = "out of reach"
    gateway = Gateway(other=other)
    await gateway.start()
    page = await browser.new_page()  # type: ignore[attr-defined]
    try:
        await page.goto(f"http://127.0.0.1:{gateway.port}")
        await expect(page.locator("#model option")).to_have_count(3)
        other.unreachable = None
        other._health["status"] = "ok"
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks again at once
        await expect(page.locator("#model option")).to_have_count(6)
        await page.select_option("#model", "org/other")
        await page.fill("#prompt", "hello")
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn.assistant .text").last).to_have_text("from afar")
    finally:
        await page.context.close()
        await gateway.stop()


async def test_a_server_that_goes_and_comes_back(open_page: OpenPage) -> None:
    """It is said without anybody asking anything; the model that was chosen stays so."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await later(page)
        await page.select_option("#model", f"{MODEL}:cloud")
        generator.unreachable = CloudUnreachable("no verifier answers")
        generator._health["status"] = "degraded"
        await page.clock.fast_forward(AT_REST_MS)
        await expect(page.locator("#state")).to_contain_text("server out of reach")
        generator.unreachable = None
        generator._health["status"] = "ok"
        await page.clock.fast_forward(AWAY_MS)
        await expect(page.locator("#state")).to_contain_text("ready")
        await expect(page.locator("#model")).to_have_value(f"{MODEL}:cloud")


async def test_models_that_are_loaded_while_the_page_is_open(open_page: OpenPage) -> None:
    """An adapter that the server has now, and a draft model, are seen by themselves; gone ones are, too."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await later(page)
        await expect(page.locator("#state")).to_contain_text("no draft model")
        target = generator._target
        for adapters, draft in ((("poems", "code"), "small"), (("code",), "none")):
            generator._target = replace(target, adapters=adapters)
            generator._health["draft"] = draft
            await page.clock.fast_forward(AT_REST_MS)
            await expect(page.locator("#model option")).to_have_count(3 + len(adapters))
            await expect(page.locator("#state")).to_contain_text("small" if draft == "small" else "no draft")
            await expect(page.locator("#model")).to_have_value(MODEL)


async def later(page: Page) -> None:
    """The page anew, with a clock that the test moves on."""
    await page.clock.install()
    await page.reload()
    await expect(page.locator("#state")).to_contain_text("ready")
    await expect(page.locator("#model option")).to_have_count(3)
