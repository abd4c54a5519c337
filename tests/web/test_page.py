"""The web page in a real browser, on a fake agent."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from playwright.async_api import Page, expect

from edge_agent.api import Route
from edge_agent.errors import CloudUnreachable
from tests.contract.scripted import ANSWER, MODEL, answering

from .conftest import OpenPage

pytestmark = pytest.mark.asyncio(loop_scope="package")

LONG = "hello world " * 60
CONTRAST_AA = 4.5


async def ask(page: Page, words: str = "hello") -> None:
    await page.fill("#prompt", words)
    await page.keyboard.press("Enter")


async def answered(page: Page) -> None:
    """Wait for the end of an answer."""
    await expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


async def test_an_answer_with_its_origin_and_figures(open_page: OpenPage) -> None:
    """The text arrives whole, each part tinted by its source; tiles and pipeline show what it cost."""
    async with open_page(answering(chunk_tokens=4)) as page:
        await ask(page)
        await answered(page)
        text = page.locator(".turn.assistant .text")
        assert await text.text_content() == ANSWER
        kinds = await text.locator("span").evaluate_all("spans => spans.map(span => span.className)")
        tiles = await page.locator("#tiles").inner_text()
        bars = await page.locator("#gantt rect").count()
        caption = await page.locator("#gantt-caption").inner_text()
    assert set(kinds) == {"drafted", "corrected"}
    assert "collaborative" in tiles
    assert re.search(r"Acceptance\s+100 %", tiles)
    assert bars > 3
    assert "tokens in" in caption


@pytest.mark.parametrize("how", ["button", "escape"])
async def test_stopping(open_page: OpenPage, how: str) -> None:
    """Stopping keeps the text so far, says so, and ends the generation behind it."""
    generator = answering(LONG, delay_s=0.05)
    async with open_page(generator) as page:
        await ask(page)
        await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
        if how == "button":
            await page.click("#stop")
        else:
            await page.keyboard.press("Escape")
        await expect(page.locator(".note")).to_have_text("Stopped.")
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
        await expect(page.locator("#send")).to_be_visible()
        words = await page.locator(".turn.assistant .text").text_content()
    assert generator.records[0].closed_early
    assert words
    assert LONG.startswith(words)


async def test_a_conversation_goes_on_and_starts_anew(open_page: OpenPage) -> None:
    """The second question carries the first turn; a new chat forgets it."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        for words in ("hello", "hello"):
            await ask(page, words)
            await answered(page)
        await page.click("#new")
        assert await page.locator(".turn").count() == 0
        await ask(page)
        await answered(page)
    first, second, third = (json.loads(record.request.body)["messages"] for record in generator.records)
    assert len(second) > len(first) == len(third)


async def test_the_keyboard_reaches_everything(open_page: OpenPage) -> None:
    """The prompt has the focus at first, Tab goes on through the rest, Shift+Enter is a new line."""
    async with open_page(answering("hello world")) as page:
        await expect(page.locator("#prompt")).to_be_focused()
        await page.keyboard.type("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        assert await page.input_value("#prompt") == "one\ntwo"
        reached = set()
        for _ in range(12):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id"))
        await page.focus("#prompt")
        await page.keyboard.press("Enter")
        await answered(page)
        assert await page.locator(".turn.user .text").text_content() == "one\ntwo"
    assert {"send", "model", "mode", "new", "log", "prompt"} <= reached


async def test_a_gateway_with_a_key(open_page: OpenPage) -> None:
    """Without the key the page asks for it in words, keeps the question, and works once it has it."""
    async with open_page(answering("hello world"), key="secret") as page:
        await ask(page, "my question")
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        assert await page.input_value("#prompt") == "my question"
        await page.fill("#key", "secret")
        await page.focus("#prompt")
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn.assistant .text").last).to_have_text("hello world")


async def test_errors_are_said_in_words(open_page: OpenPage) -> None:
    """A server out of reach, lost in mid-answer, is one sentence; the text before it stays."""
    gone = answering(error=CloudUnreachable("no verifier answers"))
    lost = answering(error=CloudUnreachable("the line was lost"), error_after=3)
    async with open_page(gone) as page:
        await ask(page)
        await expect(page.get_by_role("alert")).to_contain_text("no verifier answers")
    async with open_page(lost) as page:
        await ask(page)
        await expect(page.get_by_role("alert")).to_contain_text("the line was lost")
        words = await page.locator(".turn.assistant .text").text_content()
    assert words
    assert ANSWER.startswith(words)


async def test_an_answer_that_nobody_verified_is_marked(open_page: OpenPage) -> None:
    """On the local route every part has the tint of unverified text, and a note says what that means."""
    generator = answering("hello world", route=Route.LOCAL, route_reason="asked for")
    async with open_page(generator) as page:
        await page.select_option("#model", f"{MODEL}:local")
        await ask(page)
        await answered(page)
        text = page.locator(".turn.assistant .text")
        kinds = await text.locator("span").evaluate_all("spans => spans.map(span => span.className)")
        note = await page.locator(".note").inner_text()
        tiles = await page.locator("#tiles").inner_text()
    assert set(kinds) == {"unverified"}
    assert "not checked" in note
    assert "local" in tiles


async def test_an_answer_is_text_not_markup(open_page: OpenPage) -> None:
    """What a model writes can neither draw nor run anything."""
    words = '<img src=x onerror="document.title=1"><b>hi</b>'
    async with open_page(answering(words)) as page:
        await ask(page, "<i>")
        await answered(page)
        assert await page.locator(".turn.assistant .text").text_content() == words
        assert await page.locator("#log img, #log b, #log i").count() == 0
        assert await page.title() == "PipeSD"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_readable_in_light_and_dark(open_page: OpenPage, scheme: str) -> None:
    """The page follows the system's scheme, and every text on it has at least WCAG's AA contrast."""
    async with open_page(answering(chunk_tokens=4), color_scheme=scheme) as page:
        await ask(page)
        await answered(page)
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        contrasts = await page.evaluate(CONTRASTS)
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 382) == (scheme == "light")
    assert {name: value for name, value in contrasts.items() if value < CONTRAST_AA} == {}
    assert len(contrasts) > 5


async def test_narrow_screens(open_page: OpenPage) -> None:
    """On a phone nothing sticks out sideways, and the end of the answer is in sight."""
    async with open_page(answering(LONG, chunk_tokens=8), viewport={"width": 360, "height": 740}) as page:
        await ask(page)
        await answered(page)
        overflow = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        below = await page.evaluate(
            "(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.getElementById('log'))"
        )
        await expect(page.locator("#send")).to_be_in_viewport()
    assert overflow <= 0
    assert below <= 1


CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const texts = "h1, h2, label, dt, dd, figcaption, button, span, .text, #state";
  for (const node of document.querySelectorAll(texts)) {
    if (!node.offsetParent || !node.textContent.trim() || node.closest(".hidden")) continue;
    const [a, b] = [luminance(parse(getComputedStyle(node).color)), luminance(ground(node))];
    const name = `${node.tagName}.${node.className}#${node.id}`;
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
}"""
