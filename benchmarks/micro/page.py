"""What the page costs its browser while an answer comes in, in a chat that is long or new.

The gateway's page runs in Chromium as it is, on a generator that follows a script. Frames and long tasks
are what a person notices; CPU of the page's main thread depends less on what else the machine does.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

from tokenizers import Tokenizer

from edge_agent.api import TargetInfo
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway

__all__ = ["HEAD", "PageCost", "chromium", "long_chat", "page_costs"]

HEAD: Final = "messages  CPU a token  scripts  frames: median   95%  most  long tasks  longest"

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CHUNK: Final = 3
"""Tokens that are committed together."""
_TIMEOUT_MS: Final = 600_000.0
_VIEWPORT: Final = {"width": 1400, "height": 900}  # wide enough for the panel beside the chat
_SECTION: Final = """## Part {n}

A paragraph about **{a}** and *{b}*, with `{a}({n})` in it: whoever reads it to its end has read some
{n} words about {b}, or about [{a}](https://example.org/{n}), and may ask for more.

- first {a}, which is longer than a line of a telephone is wide
- then {b}

```python
def {a}({b}: int) -> int:
    # {n} is no number of {b}
    return {n} * {b} + len("{a}")
```

| {a} | {b} |
|-----|----:|
| {n} | {n}{n} |

"""
_KINDS: Final = {
    "mixed": ("", _SECTION),
    "code": ("```python\n", 'def {a}_{n}({b}: int) -> str:\n    # {a} or {b}\n    return "{b}" * {n}\n'),
    "list": ("", "- item {n} with **{a}** and `{b}` in it\n"),
    "table": ("| a | b |\n|---|---|\n", "| {a} {n} | `{b}` |\n"),
    "prose": ("", "The {a} of the {b} is **{n}** years old, as everybody knows. "),
}
"""How a text begins and how it goes on. All but the first are one block, however long."""
_WORDS: Final = ("river", "bread", "clock", "bridge", "glass", "paper", "harbour", "lantern")


@dataclass(frozen=True, slots=True)
class PageCost:
    """Of one answer, from the question to its end."""

    num_messages: int
    """Already in the chat."""
    cpu_ms: float
    """Of the page's main thread, a token: scripts, layout, painting."""
    script_ms: float
    frames_ms: list[float]
    """From one frame to the next."""
    long_tasks_ms: list[float]
    """Tasks over 50 ms, in which the page answers to nothing."""

    def __str__(self) -> str:
        """A line below `HEAD`."""
        frames_ms, tasks_ms = self.frames_ms, self.long_tasks_ms
        p95_ms = quantiles(frames_ms, n=20)[-1]
        return (
            f"{self.num_messages:8}{self.cpu_ms:13.1f}{self.script_ms:9.1f}"
            f"{median(frames_ms):16.1f}{p95_ms:6.1f}{max(frames_ms):6.0f}"
            f"{len(tasks_ms):12}{max(tasks_ms, default=0.0):9.0f}"
        )


def chromium() -> str | None:
    """Path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def _text(kind: str, num_characters: int) -> str:
    """Markdown of `_KINDS`, so long."""
    begin, unit = _KINDS[kind]
    made = begin
    for number in itertools.count(1):
        if len(made) >= num_characters:
            return made[:num_characters]
        a, b = _WORDS[number % len(_WORDS)], _WORDS[(number // 3 + 1) % len(_WORDS)]
        made += unit.format(n=number, a=a, b=b)
    raise AssertionError


def long_chat(num_messages: int, content: str) -> str:
    """A file that the page imports: one chat, called "long", in which every message is `content`."""
    messages = {
        str(i): {
            "id": str(i),
            "parent": str(i - 1) if i else None,
            "role": "assistant" if i % 2 else "user",
            "content": content,
            "created": i,
        }
        for i in range(num_messages)
    }
    chat = {"title": "long", "messages": messages, "leaf": str(num_messages - 1)}
    return json.dumps({"format": "pipesd-chats", "version": 1, "chats": [chat]})


async def page_costs(
    numbers: tuple[int, ...], num_tokens: int, tokens_a_second: float, kind: str = "mixed"
) -> AsyncIterator[PageCost]:
    """An answer of `num_tokens` in chats of so many messages, each as long. Raises `CliError`."""
    if kind not in _KINDS:
        raise CliError(f"There is no text {kind!r}: take one of {', '.join(_KINDS)}.", exit_code=2)
    generator, content = _generator(kind, num_tokens, tokens_a_second)
    async with _browser() as browser, hosted_gateway(generator) as url:
        for num_messages in numbers:
            context = await browser.new_context(viewport=_VIEWPORT)
            page = await context.new_page()
            page.set_default_timeout(_TIMEOUT_MS)
            await page.goto(url.removesuffix("v1"))
            if num_messages:
                chats = long_chat(num_messages, content).encode()
                file = {"name": "long.json", "mimeType": "application/json", "buffer": chats}
                await page.set_input_files("#import-file", file)
                await page.get_by_role("button", name="long", exact=True).click()
                await page.locator(".turn").nth(num_messages - 1).wait_for()
            yield await _measured(page, num_messages, num_tokens)
            await context.close()


def _generator(kind: str, num_tokens: int, tokens_a_second: float) -> tuple[FakeGenerator, str]:
    """What answers, and what it says."""
    bundle = fake_tokenizer_bundle([_text(kind, 20_000)], num_merges=400)
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    token_ids = tokenizer.encode(_text(kind, 16 * num_tokens)).ids[:num_tokens]
    target = TargetInfo("scripted", 1 << 30, tokenizer.get_vocab_size())
    script = Script(tuple(token_ids), chunk_tokens=_CHUNK, delay_s=_CHUNK / tokens_a_second, wrong_every=3)
    return FakeGenerator(target, bundle, script), tokenizer.decode(token_ids)


async def _measured(page: Any, num_messages: int, num_tokens: int) -> PageCost:
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU, however busy the machine

    async def busy_s() -> dict[str, float]:
        metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
        return {metric["name"]: metric["value"] for metric in metrics}

    await page.wait_for_timeout(2_000)  # what was opened has been drawn
    await page.evaluate(_WATCH)
    before = await busy_s()
    await page.fill("#prompt", "more")
    await page.keyboard.press("Enter")
    await page.locator("#log[aria-busy='true']").wait_for()
    await page.locator("#log[aria-busy='false']").wait_for()
    after = await busy_s()
    frames_ms, long_tasks_ms = await page.evaluate("[watched.frames, watched.tasks]")
    cpu_ms, script_ms = (
        (after[name] - before[name]) * 1e3 / num_tokens for name in ("TaskDuration", "ScriptDuration")
    )
    return PageCost(num_messages, cpu_ms, script_ms, frames_ms, long_tasks_ms)


@asynccontextmanager
async def _browser() -> AsyncIterator[Any]:
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise CliError("This needs playwright: pip install playwright") from error
    if (path := chromium()) is None:
        raise CliError("There is no Chromium on this machine: install Debian's package 'chromium'.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


_WATCH: Final = """() => {
  window.watched = { frames: [], tasks: [] };
  const tasks = (list) => watched.tasks.push(...list.getEntries().map((entry) => entry.duration));
  new PerformanceObserver(tasks).observe({ type: "longtask" });
  let last = null;
  const frame = (now) => {
    if (last !== null) watched.frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""
