"""Drafts in grey that turn black, who wrote what, what was saved, the mode in force and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.contract.scripted import ANSWER, answering

from .conftest import OpenPage, answered, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")

LONG = "hello world and so on. " * 20
FIGURES: dict[str, Any] = {
    "in_force": "wait",
    "in_force_reason": "waiting for drafts costs no time here and saves passes",
    "streaming_s": 0.5,
    "streamed_bytes": 1_000_000,
}


@asynccontextmanager
async def held_answer(open_page: OpenPage, **options: Any) -> AsyncIterator[tuple[Page, asyncio.Event]]:
    """The page at the fourth drafts of its second answer, until the event is set.

    While the first one comes in the gateway reads the tokenizer, without which no draft is shown.
    """
    gate = asyncio.Event()
    gate.set()
    async with open_page(answering(LONG, chunk_tokens=6, gate=gate, gate_at=24, **options)) as page:
        await ask(page)
        await answered(page)
        gate.clear()
        await ask(page)
        yield page, gate


async def test_drafts_are_grey_until_they_are_verified(open_page: OpenPage) -> None:
    """They follow the committed text, are told to no screen reader, and none is left at the end."""
    async with held_answer(open_page) as (page, gate):
        text = page.locator(".turn.assistant .text").last
        draft = text.locator(".draft").last
        await expect(draft).to_be_visible()
        whole, grey = await page.evaluate(TEXTS)
        assert await draft.get_attribute("aria-hidden") == "true"
        announced = await page.locator("#announcer").inner_text()
        gate.set()
        await answered(page)
        await expect(text.locator(".draft")).to_have_count(0)
        assert (await text.inner_text()).strip() == LONG.strip()
    assert grey
    assert LONG.startswith(whole)
    assert whole.endswith(grey)
    assert not announced.endswith(grey.strip())


async def test_a_wrong_draft_is_replaced(open_page: OpenPage) -> None:
    """It is seen in grey, and nothing of it stays."""
    async with held_answer(open_page, wrong_every=1) as (page, gate):
        text = page.locator(".turn.assistant .text").last
        await expect(text.locator(".draft").last).to_contain_text("hellohello")
        gate.set()
        await answered(page)
        assert (await text.inner_text()).strip() == LONG.strip()


async def test_drafts_can_be_switched_off(open_page: OpenPage) -> None:
    """Then they are not even asked for."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await page.click("#open-settings")
        await page.uncheck("#set-drafts")
        await page.keyboard.press("Escape")
        await ask(page)
        await answered(page)
        await page.click("#open-settings")
        await page.check("#set-drafts")
        await page.keyboard.press("Escape")
        await ask(page)
        await answered(page)
    assert [record.request.shows_drafts for record in generator.records] == [False, True]


async def test_mode_and_savings_in_mid_answer(open_page: OpenPage) -> None:
    """What is in force and why, and what has been saved, are there while the answer comes in."""
    gate = asyncio.Event()
    generator = answering(LONG, chunk_tokens=6, delay_s=0.05, gate=gate, gate_at=24, figures=FIGURES)
    async with open_page(generator, viewport={"width": 1400, "height": 900}) as page:
        await ask(page)
        await expect(page.locator("#savings .gain")).to_have_count(3)
        assert await page.locator("#log").get_attribute("aria-busy") == "true"
        mode = await page.locator("#mode-line").inner_text()
        assert await page.locator("#pipeline rect").count() > 1
        gate.set()
        await answered(page)
        summary = await page.locator(".summary").inner_text()
    assert mode.startswith("The target waits for drafts: waiting for drafts costs no time here")
    assert "fewer passes" in summary
    assert "tokens/s" in summary
    assert "sooner than streaming" in summary


async def test_losses_are_said_as_plainly(open_page: OpenPage) -> None:
    """An answer that took longer and carried more says so, under it and in the panel."""
    figures = FIGURES | {"streaming_s": 0.0001, "streamed_bytes": 1}
    generator = answering(LONG, chunk_tokens=6, delay_s=0.05, figures=figures)
    async with open_page(generator, viewport={"width": 1400, "height": 900}) as page:
        await ask(page)
        await answered(page)
        losses = await page.locator("#savings .loss").all_inner_texts()
        summary = await page.locator(".summary").inner_text()
    assert len(losses) == 2
    assert "later" in losses[0]
    assert "more" in losses[1]
    assert "later than streaming" in summary


async def test_every_origin_has_its_tint(open_page: OpenPage, tmp_path: Path) -> None:
    """Model, lookup, the server's own speculator, target, unverified: each told by colour and line."""
    kinds = ["drafted", "looked_up", "server", "corrected", "unverified"]
    words = [f"{kind.replace('_', ' ')} " for kind in kinds]
    ends = [sum(map(len, words[: i + 1])) for i in range(len(words))]
    runs = [[kind, end] for kind, end in zip(kinds, ends, strict=True)]
    counts = dict.fromkeys(kinds, 2)
    message = {"id": "a", "role": "assistant", "parent": "u", "content": "".join(words), "runs": runs}
    messages = {
        "u": {"id": "u", "role": "user", "content": "hi"},
        "a": message | {"counts": counts, "pieces": [{"at": 5, "total": 10, **counts}]},
    }
    chats = [{"title": "all", "messages": messages, "leaf": "a"}]
    exported = {"format": "pipesd-chats", "version": 1, "chats": chats}
    (tmp_path / "all.json").write_text(json.dumps(exported), encoding="utf-8")
    async with open_page(answering(), viewport={"width": 1400, "height": 900}) as page:
        await page.set_input_files("#import-file", tmp_path / "all.json")
        await page.get_by_role("button", name="all", exact=True).click()
        await page.click("#open-settings")
        await page.check("#set-tint")
        await page.keyboard.press("Escape")
        spans = page.locator(".turn.assistant .text span")
        await expect(spans).to_have_count(5)
        found = await spans.evaluate_all(
            "spans => spans.map(span => [span.className, span.textContent.trim()])"
        )
        looks = await spans.evaluate_all(LOOKS)
        legend = await page.locator(".legend li").count()
        bars = await page.locator("#pipeline rect:not(.bar-wait)").count()
    assert found == [[kind, word.strip()] for kind, word in zip(kinds, words, strict=True)]
    assert len({background for background, _ in looks}) == len({line for _, line in looks}) == 5
    assert legend == bars == 5


TEXTS = """(() => {
  const text = [...document.querySelectorAll(".turn.assistant .text")].pop();
  const grey = [...text.querySelectorAll(".draft")].map((each) => each.textContent).join("");
  return [text.textContent.trimEnd(), grey.trimEnd()];
})()"""

LOOKS = """spans => spans.map((span) => {
  const { backgroundColor, textDecorationLine, textDecorationStyle } = getComputedStyle(span);
  return [backgroundColor, `${textDecorationLine} ${textDecorationStyle}`];
})"""


async def test_what_is_not_known_is_said(open_page: OpenPage) -> None:
    """Nothing is made up where an answer does not tell."""
    async with open_page(answering(), viewport={"width": 1400, "height": 900}) as page:
        await ask(page)
        await answered(page)
        savings = await page.locator("#savings").inner_text()
        assert (await page.locator(".turn.assistant .text").inner_text()).strip() == ANSWER
    assert savings.count("not known") == 2
