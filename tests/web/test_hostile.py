"""What a model writes, a file holds or a title says can neither draw, run, load nor send anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.contract.scripted import answering, calling

from .conftest import OpenPage, answered, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")

ATTACKS = [
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "<svg><script>window.hacked = 1</script></svg>",
    '<svg onload="window.hacked = 1">',
    '<a href="javascript:window.hacked = 1">x</a>',
    "[x](javascript:window.hacked=1)",
    "[x](JaVaScRiPt&colon;window.hacked=1)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    '![x](https://evil.example/leak.png "t")',
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '<iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    '<form action="https://evil.example/"><input name=q><button>go</button></form>',
    "<style>body { display: none }</style>",
    '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;'
    '&lt;img src=1 onerror=window.hacked=1&gt;">',
    '```"><img src=x onerror=window.hacked=1>\ncode\n```',
    "```html\n<img src=x onerror=window.hacked=1>\n```",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <b onmouseover=window.hacked=1>b</b> |",
    "[x]: javascript:window.hacked=1\n\n[x]",
    '<div id="prompt">clobbered</div><input id="send">',
    "<base href=https://evil.example/>",
]
EVERYTHING = "\n\n".join(ATTACKS)
SCAN = """() => {
  const banned = "script iframe object embed form style link meta base math video".split(" ");
  const found = [];
  for (const node of document.querySelectorAll("#log *, #chats *, #facts *, #toast *, #announcer *")) {
    const tag = node.localName;
    if (banned.includes(tag)) found.push(tag);
    if (tag === "img" && !node.src.startsWith("data:image/png;base64,")) found.push(node.outerHTML);
    for (const { name, value } of node.attributes) {
      if (/^(on.*|style|srcdoc)$/.test(name)) found.push(`${tag} ${name}`);
      if (tag !== "img" && /^\\s*(javascript|data|vbscript):/i.test(value)) found.push(`${name}=${value}`);
    }
  }
  for (const link of document.querySelectorAll("#log a")) {
    if (!/^(https?|mailto):/.test(link.href) || link.rel !== "noopener noreferrer") found.push(link.href);
  }
  for (const id of ["prompt", "send"]) {
    if (document.querySelectorAll(`[id='${id}']`).length !== 1) found.push("clobbered");
  }
  if (window.hacked) found.push("ran");
  return found;
}"""


async def clean(page: Page) -> None:
    assert await page.evaluate(SCAN) == []
    assert await page.locator("body").is_visible()


@pytest.mark.parametrize("tint", [False, True])
async def test_answers(open_page: OpenPage, tint: bool) -> None:
    """In an answer, while it comes in and afterwards, tinted or not; what was tried can be read."""
    async with open_page(answering(EVERYTHING, chunk_tokens=7, delay_s=0.002)) as page:
        if tint:
            await page.click("#open-settings")
            await page.check("#set-tint")
            await page.keyboard.press("Escape")
        await ask(page, ATTACKS[1])
        for _ in range(10):
            await clean(page)
        await answered(page)
        await clean(page)
        shown = await page.locator(".turn.assistant .text").inner_text()
        await page.click(".summary")
        await page.locator("#inspector summary").click()
        await clean(page)
        await page.reload()
        await page.locator("#chats .open").first.click()
        await expect(page.locator(".turn.assistant pre").first).to_be_visible()
        await clean(page)
    assert "<script>window.hacked = 1</script>" in shown


async def test_reasoning_tool_calls_and_errors(open_page: OpenPage) -> None:
    """So in reasoning, in names and arguments of tools, and in an error's words."""
    function = {"name": ATTACKS[1], "arguments": EVERYTHING}
    deltas = [
        {"reasoning": EVERYTHING},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]},
    ]
    async with open_page(calling(deltas)) as page:
        await ask(page)
        await answered(page)
        for summary in await page.locator("#log summary").all():
            await summary.click()
        await clean(page)


async def test_imported_files(open_page: OpenPage, tmp_path: Path) -> None:
    """So in every field of an imported file, titles, models, figures and attachments included."""
    attack = ATTACKS[1]
    message = {
        "id": "a",
        "role": "assistant",
        "parent": "u",
        **dict.fromkeys(("content", "thoughts"), EVERYTHING),
        **dict.fromkeys(("model", "note", "error", "tokens"), attack),
        "runs": [[f'drafted" onload="{attack}', 9], ["drafted", 40]],
        "figures": dict.fromkeys(("route", "reason", "in_force_reason", "seed"), attack),
        "calls": [{"name": attack, "arguments": attack}],
        "pieces": [{"at": 1, "total": attack}],
        "counts": {"drafted": attack},
    }
    files = [
        {"kind": "text", "name": attack, "text": EVERYTHING},
        {"kind": "image", "name": attack, "url": "https://evil.example/x.png"},
        {"kind": "image", "name": attack, "url": "data:image/svg+xml;base64,PHN2Zz4="},
    ]
    question = {"id": "u", "role": "user", "parent": None, "content": attack, "attachments": files}
    chat = {"id": attack, "title": attack, "messages": {"u": question, "a": message}, "leaf": "a"}
    chat["settings"] = {"system": attack, "model": attack, "mode": attack}
    exported = {"format": "pipesd-chats", "version": 1, "chats": [chat]}
    (tmp_path / "evil.json").write_text(json.dumps(exported), encoding="utf-8")
    async with open_page(answering()) as page:
        await page.set_input_files("#import-file", tmp_path / "evil.json")
        await page.locator("#chats .open").first.click()
        await expect(page.locator(".turn")).to_have_count(2)
        for summary in await page.locator("#log summary").all():
            await summary.click()
        await page.click("#open-inspector")
        await page.click("#open-settings")
        await page.keyboard.press("Escape")
        await clean(page)
        await expect(page.locator("#chats .open").first).to_have_text(attack)
        await page.get_by_role("button", name=f'Delete "{attack}"').press("Enter")
        await expect(page.locator("#toast")).to_contain_text(attack)
        await clean(page)
