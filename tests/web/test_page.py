"""The web page in a real browser, on a fake agent: asking, answers, what an answer shows."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from playwright.async_api import expect

from edge_agent.api import Route
from edge_agent.errors import CloudUnreachable
from tests.contract.scripted import ANSWER, MODEL, answering, calling

from .conftest import OpenPage, answered, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")

LONG = "hello world " * 60
MARKDOWN = """# Title

Some **bold** text and `code`, a [link](https://example.org/).

```python
def f(x):
    return x + 1
```

| a | b |
|---|--:|
| 1 | 2 |
"""


async def test_an_answer_with_its_figures(open_page: OpenPage) -> None:
    """The text arrives whole; below it stands what it cost, beside it how it was made."""
    async with open_page(answering(chunk_tokens=4)) as page:
        await ask(page)
        await answered(page)
        assert (await page.locator(".turn.assistant .text").inner_text()).strip() == ANSWER
        summary = await page.locator(".summary").inner_text()
        await page.click(".summary")
        facts = await page.locator("#facts").inner_text()
        bars = await page.locator("#pipeline rect").count()
    assert "tokens" in summary
    assert "Drafted here, verified by the target" in facts or "target" in facts
    assert "100 %" in facts
    assert bars > 1


async def test_markdown(open_page: OpenPage) -> None:
    """Headings, tables and code are drawn; code is coloured and can be copied as it is."""
    async with open_page(answering(MARKDOWN), permissions=["clipboard-read", "clipboard-write"]) as page:
        await ask(page)
        await answered(page)
        text = page.locator(".turn.assistant .text")
        await expect(text.locator("h1")).to_have_text("Title")
        await expect(text.locator("strong")).to_have_text("bold")
        await expect(text.locator("td")).to_have_count(2)
        await expect(text.locator("td").last).to_have_css("text-align", "right")
        link = text.get_by_role("link", name="link")
        assert await link.get_attribute("rel") == "noopener noreferrer"
        await expect(text.locator("pre .hljs-keyword").first).to_have_text("def")
        await page.click(".copy")
        await expect(page.locator(".copy")).to_have_text("Copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        await page.locator(".turn.assistant .foot").get_by_role("button", name="Copy").click()
        whole = await page.evaluate("navigator.clipboard.readText()")
    assert copied == "def f(x):\n    return x + 1"
    assert whole == MARKDOWN


async def test_words_are_tinted_by_who_wrote_them(open_page: OpenPage) -> None:
    """Off at first; once it is on, each part has the tint of its source, and so after a reload."""
    async with open_page(answering(chunk_tokens=4)) as page:
        await ask(page)
        await answered(page)
        spans = page.locator(".turn.assistant .text :is(.drafted, .corrected)")
        await expect(spans).to_have_count(0)
        await page.click("#open-settings")
        await page.check("#set-tint")
        await page.keyboard.press("Escape")
        await expect(spans.first).to_be_visible()
        kinds = await spans.evaluate_all("spans => spans.map(span => span.className)")
        words = await page.locator(".turn.assistant .text").inner_text()
        await page.reload()
        await page.locator("#chats .open").first.click()
        await expect(spans.first).to_be_visible()
    assert set(kinds) == {"drafted", "corrected"}
    assert words.strip() == ANSWER


async def test_origins_without_a_tint(open_page: OpenPage) -> None:
    """What the tint says, the panel says as a list, by keyboard alone."""
    async with open_page(answering(chunk_tokens=4)) as page:
        await ask(page)
        await answered(page)
        await page.focus(".summary")
        await page.keyboard.press("Enter")
        await page.focus("#inspector summary")
        await page.keyboard.press("Enter")
        runs = await page.locator(".runs li").all_inner_texts()
    assert {"draft model", "target"} <= {
        name for run in runs for name in ("draft model", "target") if name in run
    }
    assert len(runs) > 3


@pytest.mark.parametrize("how", ["button", "escape"])
async def test_stopping(open_page: OpenPage, how: str) -> None:
    """Stopping keeps the text so far, says so, and ends the generation behind it."""
    generator = answering(LONG, gate=asyncio.Event())
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
        words = await page.locator(".turn.assistant .text").inner_text()
    assert generator.records[0].closed_early
    assert words
    assert LONG.startswith(words)


async def test_a_question_stopped_before_any_word_comes_back(open_page: OpenPage) -> None:
    """It stands in the field again, and nowhere else."""
    async with open_page(answering(LONG, first_delay_s=30.0)) as page:
        await ask(page, "my question")
        await page.click("#stop")
        await expect(page.locator("#prompt")).to_have_value("my question")
        await expect(page.locator(".turn")).to_have_count(0)


async def test_a_new_answer_stopped_before_any_word_leaves_the_old_one(open_page: OpenPage) -> None:
    """The question and its first answer are as they were, after a reload, too."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await ask(page, "my question")
        await answered(page)
        generator._script = replace(generator._script, first_delay_s=30.0)  # type: ignore[type-var]
        await page.get_by_role("button", name="Answer again").click()
        await expect(page.locator(".answer.busy")).to_be_attached()
        await page.click("#stop")
        for _ in range(2):
            await expect(page.locator(".turn")).to_have_count(2)
            await expect(page.locator(".turn.assistant .text")).to_have_text("hello world")
            await page.reload()
            await page.locator("#chats .open").first.click()


async def test_editing_in_mid_answer(open_page: OpenPage) -> None:
    """The answer that was under way ends as a version of its own; the edited question is what is shown."""
    async with open_page(answering(LONG, gate=asyncio.Event())) as page:
        await ask(page, "one")
        await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
        await page.locator(".turn.user").hover()
        await page.get_by_role("button", name="Edit").click()
        await page.get_by_label("Edit the message").fill("two")
        await page.get_by_role("button", name="Send again").click()
        await expect(page.locator(".turn.user .text")).to_have_text("two")
        await page.wait_for_timeout(300)
        await page.click("#stop")
        await answered(page)
        await expect(page.locator(".turn.user .text")).to_have_text("two")
        await page.get_by_role("button", name="Previous version").click()
        await expect(page.locator(".turn.user .text")).to_have_text("one")
        await expect(page.locator(".note")).to_have_text("Stopped.")


async def test_a_chat_deleted_in_mid_answer_stays_deleted(open_page: OpenPage) -> None:
    """What was still coming in does not bring it back."""
    generator = answering(LONG, gate=asyncio.Event())
    async with open_page(generator) as page:
        await ask(page, "one")
        await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
        await page.get_by_role("button", name='Delete "one"').press("Enter")
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
        await page.wait_for_timeout(300)
        await expect(page.locator("#chats li")).to_have_count(0)
        await expect(page.locator(".turn")).to_have_count(0)


async def test_nothing_of_an_abandoned_answer_remains(open_page: OpenPage) -> None:
    """A new chat in mid-answer is empty and stays so; the old one keeps what there was."""
    generator = answering(LONG, gate=asyncio.Event())
    async with open_page(generator, viewport={"width": 1400, "height": 800}) as page:
        await ask(page)
        await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
        await page.click("#new")
        await asyncio.wait_for(generator.records[0].ended.wait(), 20)
        await page.wait_for_timeout(500)
        assert await page.locator(".turn").count() == 0
        assert await page.locator("#pipeline rect").count() == 0
        assert await page.locator("#mode-line").inner_text() == "No answer yet."
        assert await page.locator("#announcer").inner_text() == ""
        await page.locator("#chats .open").first.click()
        await expect(page.locator(".note")).to_have_text("Stopped.")
        assert "hello" in await page.locator(".turn.assistant .text").inner_text()


async def test_a_conversation_goes_on_and_starts_anew(open_page: OpenPage) -> None:
    """The second question carries the first turn; a new chat forgets it."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        for words in ("hello", "hello"):
            await ask(page, words)
            await answered(page)
        await page.click("#new")
        await expect(page.locator(".turn")).to_have_count(0)
        await ask(page)
        await answered(page)
    first, second, third = (bodies(generator)[i]["messages"] for i in range(3))
    assert len(second) == 3
    assert len(first) == len(third) == 1


async def test_editing_answering_again_and_versions(open_page: OpenPage) -> None:
    """An edited question and a new answer are versions beside the old ones, and none is lost."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await ask(page, "one")
        await answered(page)
        await page.get_by_role("button", name="Answer again").click()
        await answered(page)
        await expect(page.locator(".turn.assistant .pager")).to_contain_text("2 / 2")
        await page.locator(".turn.user").hover()
        await page.get_by_role("button", name="Edit").click()
        await page.get_by_label("Edit the message").fill("two")
        await page.get_by_role("button", name="Send again").click()
        await answered(page)
        await expect(page.locator(".turn.user .pager")).to_contain_text("2 / 2")
        await page.get_by_role("button", name="Previous version").first.click()
        await expect(page.locator(".turn.user .text")).to_have_text("one")
        await expect(page.locator(".turn.assistant .pager")).to_contain_text("2 / 2")
        await page.get_by_role("button", name="Next version").first.click()
        await expect(page.locator(".turn.user .text")).to_have_text("two")
        await expect(page.locator("#chats li")).to_have_count(1)
    asked = [[message["content"] for message in body["messages"]] for body in bodies(generator)]
    assert asked == [["one"], ["one"], ["two"]]


async def test_going_on_in_a_new_chat(open_page: OpenPage) -> None:
    """A branch begins with the conversation so far and leaves the old chat as it was."""
    async with open_page(answering("hello world")) as page:
        await ask(page, "one")
        await answered(page)
        await page.get_by_role("button", name="Go on in a new chat").click()
        await expect(page.locator("#chats li")).to_have_count(2)
        await expect(page.locator(".turn")).to_have_count(2)
        await ask(page, "two")
        await answered(page)
        await page.locator("#chats .open", has_text="one").last.click()
        await expect(page.locator(".turn")).to_have_count(2)


async def test_a_gateway_with_a_key(open_page: OpenPage) -> None:
    """Without the key the page says so and asks for it; the question can be sent again once it has it."""
    async with open_page(answering("hello world"), key="secret") as page:
        await ask(page, "my question")
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        await expect(page.locator("#key")).to_be_focused()
        await page.keyboard.type("secret")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Answer again").click()
        await expect(page.locator(".turn.assistant .text").last).to_have_text("hello world")
        await expect(page.locator("#model option")).to_have_count(3)


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
        words = await page.locator(".turn.assistant .text").inner_text()
    assert words
    assert ANSWER.startswith(words)


async def test_an_answer_that_nobody_verified_is_marked(open_page: OpenPage) -> None:
    """On the local route a note says what that means, and every part has the tint of unverified text."""
    generator = answering("hello world", route=Route.LOCAL, route_reason="asked for")
    async with open_page(generator) as page:
        await page.click("#open-settings")
        await page.check("#set-tint")
        await page.keyboard.press("Escape")
        await page.select_option("#model", f"{MODEL}:local")
        await ask(page)
        await answered(page)
        spans = page.locator(".turn.assistant .text :is(.drafted, .corrected, .unverified)")
        kinds = await spans.evaluate_all("spans => spans.map(span => span.className)")
        note = await page.locator(".note").inner_text()
        await page.click(".summary")
        mode = await page.locator("#mode-line").inner_text()
    assert set(kinds) == {"unverified"}
    assert "not checked" in note
    assert "asked for" in mode


async def test_reasoning_and_tool_calls_fold(open_page: OpenPage) -> None:
    """Both are there to open, and are not part of the answer."""
    deltas: list[dict[str, Any]] = [
        {"reasoning": "Let me **think**."},
        {"content": "Well."},
        {
            "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Paris"}'}}]},
    ]
    async with open_page(calling(deltas)) as page:
        await ask(page)
        await answered(page)
        await expect(page.locator(".turn.assistant .text")).to_have_text("Well.")
        thoughts = page.locator(".thoughts-text")
        await expect(thoughts).to_be_hidden()
        await page.get_by_text("Thoughts", exact=True).click()
        await expect(thoughts.locator("strong")).to_have_text("think")
        await page.get_by_text("Tool call: weather").click()
        await expect(page.locator(".call pre")).to_have_text('{\n  "city": "Paris"\n}')


async def test_settings_of_a_chat_reach_the_target(open_page: OpenPage) -> None:
    """What was set is sent, with this chat only; what was left empty is not; bad values are marked."""
    generator = answering("hello world")
    async with open_page(generator) as page:
        await page.click("#open-settings")
        await page.fill("#set-system", "Be brief.")
        await page.fill("#set-temperature", "0.2")
        await page.fill("#set-top_p", "7")
        await page.fill("#set-max_tokens", "50")
        await page.select_option("#set-thinking", "off")
        await page.select_option("#set-mode", "offload")
        await page.keyboard.press("Escape")
        await ask(page)
        await answered(page)
        await page.click("#open-settings")
        assert await page.input_value("#set-temperature") == "0.2"
        await page.keyboard.press("Escape")
        await page.click("#new")
        await ask(page)
        await answered(page)
    first, second = bodies(generator)
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (first["temperature"], first["max_tokens"]) == (0.2, 50)
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert "top_p" not in first
    assert not {"temperature", "max_tokens", "chat_template_kwargs"} & second.keys()
    assert [record.request.mode for record in generator.records] == ["offload", None]


def bodies(generator: Any) -> list[dict[str, Any]]:
    """The requests that the server's API was sent."""
    return [json.loads(record.request.body) for record in generator.records]


async def test_the_targets_own_defaults_are_shown(open_page: OpenPage) -> None:
    """Once an answer has told them, a field that is left empty shows what the target does then."""
    generator = answering("hello world")
    generator._target = replace(generator._target, sampling_defaults={"temperature": 0.6, "top_k": 20})
    async with open_page(generator) as page:
        await page.click("#open-settings")
        await page.fill("#set-top_p", "0.5")
        await page.keyboard.press("Escape")
        await ask(page)
        await answered(page)
        await page.click("#open-settings")
        shown = [
            await page.get_attribute(f"#set-{name}", "placeholder")
            for name in ("temperature", "top_k", "top_p")
        ]
    assert shown == ["0.6", "20", "the target's own"]


async def test_models_and_routes(open_page: OpenPage) -> None:
    """Routes are named in words, and the last choice is the next chat's."""
    async with open_page(answering("hello world")) as page:
        await expect(page.locator("#model option")).to_have_count(3)
        names = await page.locator("#model option").all_inner_texts()
        await page.select_option("#model", f"{MODEL}:cloud")
        await page.click("#new")
        await expect(page.locator("#model")).to_have_value(f"{MODEL}:cloud")
    assert names == [MODEL, f"{MODEL} · no drafts", f"{MODEL} · draft model alone"]
