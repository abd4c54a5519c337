"""The page without a mouse, without sight, on a phone, in every scheme."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
from playwright.async_api import Page, expect

from edge_agent.errors import CloudUnreachable
from tests.contract.scripted import answering

from .conftest import OpenPage, answered, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")

LONG = "hello world. " * 60
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
CONTRAST_AA = 4.5


async def focused(page: Page) -> str:
    return str(await page.evaluate("document.activeElement.id"))


async def test_the_keyboard_alone(open_page: OpenPage) -> None:
    """Ask, read how it was made, make it anew, change settings, rename, start anew: no mouse."""
    async with open_page(answering("hello world", chunk_tokens=4)) as page:
        await expect(page.locator("#prompt")).to_be_focused()
        await page.keyboard.type("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        await page.keyboard.press("Enter")
        await answered(page)
        assert await page.locator(".turn.user .text").inner_text() == "one\ntwo"
        assert await focused(page) == "prompt"
        names = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            names.append(await page.evaluate(NAME_OF_FOCUS))
            if names[-1] == "Answer again":
                break
        await page.keyboard.press("Enter")
        await answered(page)
        await expect(page.locator(".turn.assistant .pager")).to_contain_text("2 / 2")
        await page.focus("#open-settings")
        await page.keyboard.press("Enter")
        await expect(page.locator("#settings")).to_be_visible()
        await page.keyboard.press("Escape")
        assert await focused(page) == "open-settings"
        await page.focus("#open-inspector")
        await page.keyboard.press("Enter")
        await expect(page.locator("#inspector")).to_be_visible()
        await page.focus("#new")
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn")).to_have_count(0)
        assert await focused(page) == "prompt"
    wanted = {"New chat", "Search chats", "Import", "Export all", "Settings", "Model and route", "Copy"}
    assert wanted <= set(names), names


async def test_every_focus_is_seen(open_page: OpenPage) -> None:
    """Whatever Tab reaches has an outline, or a field around it that changes."""
    async with open_page(answering("hello world")) as page:
        await ask(page)
        await answered(page)
        for _ in range(30):
            await page.keyboard.press("Tab")
            outline, name = await page.evaluate(OUTLINE_OF_FOCUS)
            assert outline, name


async def test_a_screen_reader_hears_the_answer(open_page: OpenPage) -> None:
    """Sentence by sentence in a polite live region, without markup, and that it is complete."""
    text = "First **sentence**. Second one! A list:\n\n- point\n\nEnd"
    async with open_page(answering(text, delay_s=0.02)) as page:
        await ask(page)
        region = page.get_by_role("log")
        await expect(region.locator("p").first).to_have_text("First sentence.")
        await answered(page)
        heard = await region.locator("p").all_inner_texts()
        live = await region.get_attribute("aria-live")
        tree = await accessibility_tree(page)
    assert live == "polite"
    assert heard[-1] == "The answer is complete."
    spoken = " ".join(heard[:-1])
    assert "*" not in spoken
    assert [word in spoken for word in ("Second one!", "point", "End")] == [True] * 3
    for role, name in (
        ("navigation", "Chats"),
        ("main", ""),
        ("textbox", "Message"),
        ("button", "Send"),
        ("combobox", "Model and route"),
        ("region", "Conversation"),
        ("heading", "You"),
        ("strong", ""),
        ("list", ""),
    ):
        assert any(found == role and name in named for found, named in tree), (role, name)
    nameless = [role for role, name in tree if role in ("button", "textbox", "combobox", "link") and not name]
    assert nameless == []


async def test_errors_and_states_are_announced(open_page: OpenPage) -> None:
    """The gateway's state is a status of its own, errors are alerts."""
    async with open_page(answering()) as page:
        await expect(page.locator("#state")).to_contain_text("ready")
        assert await page.locator("#state").get_attribute("role") == "status"
        assert await page.locator("#toast").get_attribute("role") == "status"


@pytest.mark.parametrize("tint", [False, True])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_readable_in_light_and_dark(open_page: OpenPage, scheme: str, tint: bool) -> None:
    """The page follows the system's scheme, and every text on it has at least WCAG's AA contrast."""
    text = "# Title\n\nSome `code`.\n\n```python\n# why\ndef f(x: int): return 'a' + 1\n```\n"
    wide = {"width": 1400, "height": 900}
    async with open_page(answering(text, chunk_tokens=4), color_scheme=scheme, viewport=wide) as page:
        if tint:
            await page.click("#open-settings")
            await page.check("#set-tint")
            await page.keyboard.press("Escape")
        await ask(page)
        await answered(page)
        await expect(page.locator(".hljs-keyword").first).to_be_visible()
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        contrasts = await page.evaluate(CONTRASTS)
        await page.click("#open-settings")
        contrasts |= await page.evaluate(CONTRASTS)
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 382) == (scheme == "light")
    assert {name: value for name, value in contrasts.items() if value < CONTRAST_AA} == {}
    assert len(contrasts) > 30


GREY = """Some words, then a table.

| hello world | `hello world` |
|---|---|
| hello world | hello world |

> hello `world`

```python
def hello(): return "world"  # hello
```

# hello `hello world hello world hello world`
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_drafts_notes_and_errors_are_readable(open_page: OpenPage, scheme: str) -> None:
    """In mid-answer as well, wherever a draft stands; and so are what failed, and a notice."""
    gate = asyncio.Event()
    gate.set()
    faint: dict[str, float] = {}
    seen: set[str] = set()

    async def look(page: Page) -> None:
        contrasts = await page.evaluate(CONTRASTS)
        seen.update(contrasts)
        faint.update({name: value for name, value in contrasts.items() if value < CONTRAST_AA})

    wide = {"width": 1400, "height": 900}
    generator = answering(GREY, chunk_tokens=20, gate=gate, delay_s=0.2)
    async with open_page(generator, color_scheme=scheme, viewport=wide) as page:
        await ask(page)
        await answered(page)  # meanwhile the gateway has read the tokenizer
        for at in range(1, 81, 20):
            gate.clear()
            generator._script = replace(generator._script, gate_at=at)  # type: ignore[type-var]
            await ask(page)
            await expect(page.locator(".draft").last).to_be_visible()
            await look(page)
            await page.click("#stop")
            await answered(page)
            await look(page)
            await page.click("#new")
        generator._script = replace(generator._script, error=CloudUnreachable("gone"))  # type: ignore[type-var]
        await ask(page)
        await expect(page.get_by_role("alert")).to_be_visible()
        await look(page)
        await page.locator("#chats [aria-label^=Delete]").first.press("Enter")
        await expect(page.locator("#toast")).to_contain_text("was deleted")
        await look(page)
    assert faint == {}
    for kind in ("SPAN.draft", "P.note", "P.error", "DIV.#toast"):
        assert any(name.startswith(kind) for name in seen), (kind, seen)


async def test_phones(open_page: OpenPage) -> None:
    """Nothing sticks out, Enter is a line break, the arrow sends, and all panels open by touch."""
    async with open_page(answering(LONG, chunk_tokens=8), **PHONE) as page:
        await page.tap("#prompt")
        await page.keyboard.type("one")
        await page.keyboard.press("Enter")
        await page.keyboard.type("two")
        assert await page.input_value("#prompt") == "one\ntwo"
        await page.tap("#send")
        await answered(page)
        overflow = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        below = await page.evaluate(
            "(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.getElementById('log'))"
        )
        await expect(page.locator("#send")).to_be_in_viewport()
        await page.tap(".summary")
        await expect(page.locator("#mode-line")).to_be_in_viewport()
        await page.tap("#close-inspector")
        await page.tap("#open-sidebar")
        await expect(page.locator("#new")).to_be_in_viewport()
        await page.tap("#new")
        await expect(page.locator("#sidebar")).to_be_hidden()
        await page.tap("#open-settings")
        await expect(page.locator("#set-temperature")).to_be_visible()
        widths = await page.evaluate("document.getElementById('settings').scrollWidth <= window.innerWidth")
    assert overflow <= 0
    assert below <= 1
    assert widths


async def test_reduced_motion(open_page: OpenPage) -> None:
    """Nothing blinks for who does not want it."""
    async with open_page(answering(LONG, first_delay_s=5.0), reduced_motion="reduce") as page:
        await ask(page)
        await expect(page.locator(".answer.busy")).to_be_attached()
        running = await page.evaluate("document.getAnimations().length")
    assert running == 0


async def accessibility_tree(page: Page) -> list[tuple[str, str]]:
    """Role and name of every node that a screen reader gets."""
    session = await page.context.new_cdp_session(page)
    nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    shown = [node for node in nodes if not node.get("ignored")]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown]


NAME_OF_FOCUS = """(() => {
  const at = document.activeElement;
  return at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent.trim() ?? at.textContent.trim();
})()"""

OUTLINE_OF_FOCUS = """(() => {
  const at = document.activeElement;
  const style = getComputedStyle(at);
  const field = at.closest(".field");
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  const framed = field && getComputedStyle(field).boxShadow !== "none";
  return [at === document.body || outlined || framed, at.outerHTML.slice(0, 120)];
})()"""

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
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (node.closest(".hidden, svg, noscript, option") || node.disabled) continue;
    const [a, b] = [luminance(parse(getComputedStyle(node).color)), luminance(ground(node))];
    const name = `${node.tagName}.${node.className}#${node.id} in ${node.parentElement.className}`;
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
}"""
