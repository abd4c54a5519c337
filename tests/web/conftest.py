"""A real browser, started once for all tests of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from benchmarks.micro.page import chromium
from edge_agent.testing import FakeGenerator
from tests.contract.scripted import gateway

TIMEOUT_MS = 30_000
"""For actions and for `expect`, which goes by a time of its own (5 s unless told otherwise)."""
OpenPage = Callable[..., AbstractAsyncContextManager[Page]]
VIEWPORT = {"width": 1100, "height": 800}


expect.set_options(timeout=TIMEOUT_MS)


async def ask(page: Page, words: str = "hello") -> None:
    """Send a question."""
    await page.fill("#prompt", words)
    await page.keyboard.press("Enter")


async def answered(page: Page) -> None:
    """Wait for the end of an answer."""
    await expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: install Debian's package 'chromium'")
    async with async_playwright() as playwright:
        # CI runs as root, where Chromium has no sandbox. Sites of the test are on this machine.
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """`open_page(generator, key=None, **context)`: the page, in a fresh context.

    Whatever it says on the console that is an error, policy violations included, fails the test; so does
    a request to another host.
    """

    @asynccontextmanager
    async def make(generator: FakeGenerator, key: str | None = None, **context: Any) -> AsyncIterator[Page]:
        problems: list[str] = []
        async with gateway(generator, key) as url:
            page = await (await browser.new_context(**{"viewport": VIEWPORT, **context})).new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.extend(_problem(message.type, message.text)))
            page.on(
                "request",
                lambda asked: (
                    None if asked.url.startswith((url, "data:", "blob:")) else problems.append(asked.url)
                ),
            )
            await page.goto(url)
            await expect(page.locator("#state")).not_to_contain_text("connecting")
            try:
                yield page
            finally:
                await page.context.close()
        assert problems == []

    return make


def _problem(kind: str, text: str) -> list[str]:
    # The browser itself notes every failed request; the tests look at what the page makes of it.
    return [text] if kind == "error" and "Failed to load resource" not in text else []
