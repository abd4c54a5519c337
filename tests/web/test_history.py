"""Chats that the page keeps in the browser: names, search, export, import, attachments."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from benchmarks.micro.page import long_chat
from edge_agent.testing import FakeGenerator
from tests.contract.scripted import answering

from .conftest import OpenPage, answered, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def two_chats(page: Page) -> None:
    """Chats called "about cats" and, newer and open, "about dogs"."""
    for words in ("about cats", "about dogs"):
        await page.click("#new")
        await expect(page.locator(".turn")).to_have_count(0)
        await ask(page, words)
        await answered(page)
    await expect(page.locator("#chats li")).to_have_count(2)


async def titles(page: Page) -> list[str]:
    return await page.locator("#chats .open").all_inner_texts()


async def test_chats_are_there_after_a_reload(open_page: OpenPage) -> None:
    """Newest first, with all that was said, and they go on where they were."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await two_chats(page)
        await page.reload()
        await expect(page.locator("#chats li")).to_have_count(2)
        assert await titles(page) == ["about dogs", "about cats"]
        await page.get_by_role("button", name="about cats", exact=True).click()
        await expect(page.locator(".turn.assistant .text")).to_have_text("hello world")
        await ask(page, "more")
        await answered(page)
        await expect(page.locator("#chats .open").first).to_have_text("about cats")
    last = json.loads(generator.records[-1].request.body)["messages"]
    assert [message["content"] for message in last] == ["about cats", "hello world", "more"]


async def test_renaming(open_page: OpenPage) -> None:
    """By keyboard: Enter keeps the new name, Escape the old one."""
    async with open_page(answering("hello world")) as page:
        await two_chats(page)
        await page.get_by_role("button", name='Rename "about cats"').press("Enter")
        await page.keyboard.type("Felines")
        await page.keyboard.press("Enter")
        await expect(page.locator("#chats .open").last).to_have_text("Felines")
        await page.get_by_role("button", name='Rename "about dogs"').press("Enter")
        await page.keyboard.type("Other")
        await page.keyboard.press("Escape")
        await page.reload()
        await expect(page.locator("#chats li")).to_have_count(2)
        assert await titles(page) == ["about dogs", "Felines"]


async def test_deleting_can_be_undone(open_page: OpenPage) -> None:
    """A deleted chat is gone from the list and the page, and comes back with one press."""
    async with open_page(answering("hello world")) as page:
        await two_chats(page)
        await page.get_by_role("button", name='Delete "about dogs"').press("Enter")
        await expect(page.locator("#chats li")).to_have_count(1)
        await expect(page.locator(".turn")).to_have_count(0)
        await page.get_by_role("button", name="Undo").click()
        await expect(page.locator("#chats li")).to_have_count(2)
        await page.get_by_role("button", name='Delete "about cats"').press("Enter")
        await expect(page.locator("#chats li")).to_have_count(1)
        await page.reload()
        await expect(page.locator("#chats li")).to_have_count(1)
        assert await titles(page) == ["about dogs"]


async def test_searching(open_page: OpenPage) -> None:
    """Titles and words of questions and answers are found, whatever their case; the rest is left out."""
    async with open_page(answering("hello world")) as page:
        await two_chats(page)
        await page.fill("#search", "CATS")
        await expect(page.locator("#chats li")).to_have_count(1)
        await page.fill("#search", "World")
        await expect(page.locator("#chats li")).to_have_count(2)
        await page.fill("#search", "birds")
        await expect(page.locator("#no-chats")).to_have_text("No chat says that.")


async def test_export_and_import(open_page: OpenPage, tmp_path: Path) -> None:
    """A file of all chats brings them into another browser, beside those that are there."""
    async with open_page(answering("hello world")) as page:
        await two_chats(page)
        async with page.expect_download() as downloading:
            await page.click("#export")
        await (await downloading.value).save_as(tmp_path / "chats.json")
    async with open_page(answering("hello world")) as page:
        await ask(page, "mine")
        await answered(page)
        await page.set_input_files("#import-file", tmp_path / "chats.json")
        await expect(page.locator("#toast")).to_contain_text("2 chats were imported")
        await expect(page.locator("#chats li")).to_have_count(3)
        await page.get_by_role("button", name="about cats", exact=True).click()
        await expect(page.locator(".turn.assistant .text")).to_have_text("hello world")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    async with open_page(answering()) as page:
        await page.set_input_files("#import-file", tmp_path / "other.json")
        await expect(page.locator("#toast")).to_contain_text("no file of exported PipeSD chats")


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360f8cfc000000301010018dd8db00000000049454e44ae426082"
)


async def test_attachments(open_page: OpenPage, tmp_path: Path) -> None:
    """A text file goes into the question, an image beside it; what is neither is refused in words."""
    (tmp_path / "notes.txt").write_text("first line\nsecond", encoding="utf-8")
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "blob.bin").write_bytes(b"\x00\xff")
    generator = answering("hello world")
    async with open_page(generator) as page:
        await page.set_input_files("#attach-file", [tmp_path / "notes.txt", tmp_path / "dot.png"])
        await expect(page.locator("#attachments li")).to_have_count(2)
        await page.set_input_files("#attach-file", tmp_path / "blob.bin")
        await expect(page.locator("#toast")).to_contain_text("blob.bin is neither text nor")
        await page.get_by_role("button", name="Remove dot.png").click()
        await expect(page.locator("#attachments li")).to_have_count(1)
        await page.set_input_files("#attach-file", tmp_path / "dot.png")
        await expect(page.locator("#attachments li")).to_have_count(2)
        await ask(page, "what is it?")
        await answered(page)
        await expect(page.locator("#attachments li")).to_have_count(0)
        await expect(page.locator(".turn.user img.attached")).to_be_visible()
        assert await page.evaluate("document.querySelector('img.attached').naturalWidth") == 1
    [sent] = generator.forwarded[0][1]["messages"]
    image, text = sent["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] == "notes.txt:\n```\nfirst line\nsecond\n```\n\nwhat is it?"


FILES = """(target, name) => {
  const data = new DataTransfer();
  data.items.add(new File(["dropped here"], "dropped.txt", { type: "text/plain" }));
  const options = { bubbles: true, cancelable: true };
  const event = name === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: data })
    : new DragEvent(name, { ...options, dataTransfer: data });
  return target.dispatchEvent(event);
}"""


@pytest.mark.parametrize(("where", "events"), [("#prompt", ["paste"]), ("#composer", ["dragover", "drop"])])
async def test_files_are_pasted_and_dropped(open_page: OpenPage, where: str, events: list[str]) -> None:
    """As if chosen; the browser does not open them in place of the page."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        for name in events:
            goes_on = await page.locator(where).evaluate(f"(at, name) => ({FILES})(at, name)", name)
            assert not goes_on
        await expect(page.locator("#attachments li")).to_have_count(1)
        await ask(page, "what is it?")
        await answered(page)
    [sent] = generator.forwarded[0][1]["messages"]
    assert sent["content"] == "dropped.txt:\n```\ndropped here\n```\n\nwhat is it?"


async def test_a_pasted_text_is_a_text(open_page: OpenPage) -> None:
    """What is no file goes into the field, as anywhere."""
    async with open_page(answering()) as page:
        goes_on = await page.locator("#prompt").evaluate(
            "at => at.dispatchEvent(new ClipboardEvent('paste', { cancelable: true, bubbles: true, "
            "clipboardData: new DataTransfer() }))"
        )
        assert goes_on
        await expect(page.locator("#attachments li")).to_have_count(0)


async def test_two_tabs_show_the_same_chats(open_page: OpenPage) -> None:
    """What one tab keeps, the other lists at once."""
    async with open_page(answering("hello world")) as page:
        other = await page.context.new_page()
        await other.goto(page.url)
        await ask(page, "from the first tab")
        await answered(page)
        await expect(other.locator("#chats .open")).to_have_text("from the first tab")


async def test_a_long_chat_stays_smooth(open_page: OpenPage) -> None:
    """200 messages of 2,000 tokens: only what is looked at is drawn, and the end is in sight."""
    words = "Some **words** with `code` in them, again and again. " * 150
    generator = roomy(answering("hello world " * 50, delay_s=0.01))
    async with open_page(generator) as page:
        await open_long_chat(page, words)
        await expect(page.locator(".turn.assistant").last.locator("strong").last).to_be_in_viewport()
        drawn = await page.locator(".turn.assistant .block").count()
        await ask(page, "more")
        await answered(page)
        await expect(page.locator(".turn.assistant .text").last).to_contain_text("hello world")
        await expect(page.locator(".turn.assistant .foot").last).to_be_in_viewport()
        after = await page.locator(".turn.assistant .block").count()
        await page.evaluate("document.getElementById('log').scrollTop = 0")
        await expect(page.locator(".turn.assistant").first.locator("strong").first).to_be_visible()
    assert 0 < drawn < 20
    assert after < 20


def roomy(generator: FakeGenerator) -> FakeGenerator:
    """One whose target takes a long chat."""
    generator._target = replace(generator._target, max_model_len=1 << 30)
    return generator


async def open_long_chat(page: Page, content: str) -> None:
    file = {"name": "long.json", "mimeType": "application/json", "buffer": long_chat(200, content).encode()}
    await page.set_input_files("#import-file", file)  # type: ignore[arg-type]
    await page.get_by_role("button", name="long", exact=True).click()
    await expect(page.locator(".turn")).to_have_count(200)


UNITS = {
    "paragraphs": ("", "hello **world** and so on.\n\n"),
    "one paragraph": ("", "hello **world** and so on. "),
    "a list": ("", "- hello `world`\n"),
    "a table": ("| a | b |\n|---|---|\n", "| hello | `world` |\n"),
    "code": ("```python\n", "def hello(world): return 1\n"),
}


@pytest.mark.parametrize("tint", [False, True])
@pytest.mark.parametrize("kind", UNITS)
async def test_a_token_changes_the_end_of_its_answer_only(open_page: OpenPage, kind: str, tint: bool) -> None:
    """However long chat and answer are: what is on the page stays, node by node."""
    begin, unit = UNITS[kind]
    text = begin + unit * 60
    gate = asyncio.Event()
    half = len(answering(text)._script.token_ids) // 2  # type: ignore[union-attr]
    generator = roomy(answering(text, chunk_tokens=2, delay_s=0.005, gate=gate, gate_at=half))
    async with open_page(generator) as page:
        await open_long_chat(page, "Some **words** with `code` in them. " * 20)
        if tint:
            await page.click("#open-settings")
            await page.check("#set-tint")
            await page.keyboard.press("Escape")
        await ask(page, "more")
        await expect(page.locator(".turn.assistant .text").last).to_contain_text("hello")
        while generator.records[0].stats.completion_tokens < half:
            await page.wait_for_timeout(50)
        await page.wait_for_timeout(500)
        await page.evaluate(WATCH)
        gate.set()
        await answered(page)
        found = await page.evaluate("watched")
    assert (found["elsewhere"], found["lost"]) == (0, 0)
    assert found["watched"] > 10
    assert found["records"] > 0  # on a busy machine all of them may come with the answer's end


WATCH = """() => {
  const log = document.getElementById("log");
  const text = [...log.querySelectorAll(".turn.assistant .text")].pop();
  const before = [...text.querySelectorAll("*")].filter((node) => !node.closest(".draft")).slice(0, -12);
  window.watched = { records: 0, elsewhere: 0, lost: 0, watched: before.length };
  const watch = new MutationObserver((records) => {
    watched.records += records.length;
    if (log.getAttribute("aria-busy") === "false") return;
    watched.elsewhere += records.filter(({ target }) => !text.contains(target)).length;
    watched.lost += before.filter((node) => !node.isConnected).length;
  });
  watch.observe(log, { subtree: true, childList: true, characterData: true, attributes: true });
}"""
