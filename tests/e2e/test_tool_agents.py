"""Programs that work in a loop of tool calls, through the gateway: what they cost with looked-up drafts."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from openai_gateway.app import create_app
from openai_gateway.observe.requests import Finished
from tests.node_packages import installed
from tests.pruned_pair import pruned_pair

from .scripted_target import TOOL_SAID, scripted_server
from .stack import serving, started_agent

pytestmark = [pytest.mark.client, pytest.mark.asyncio(loop_scope="module")]

AGENTS: Final = Path(__file__).with_name("agents") / "package.json"
RUN_TIMEOUT_S: Final = 300
QUIET: Final = {"privacy": {"usageStatisticsEnabled": False}, "general": {"enableAutoUpdate": False}}
"""Settings with which it calls nobody but the gateway."""
FLAGS: Final = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    "--enable-prompt-tokens-details",
)
SOURCE: Final = '''\
"""What an order costs."""

from dataclasses import dataclass


@dataclass
class Item:
    """One line of an order."""

    name: str
    price: float
    count: int = 1


def total(items, discount=0.0):
    """The sum of all items, less the discount."""
    result = 0.0
    for item in items:
        if item.count < 0:
            raise ValueError(f"{item.name}: a count below zero")
        result += item.price * item.count
    return result * (1.0 - discount)


def report(items):
    """One line for each item, and the sum."""
    lines = [f"{item.count} x {item.name}: {item.price:.2f}" for item in items]
    lines.append(f"total: {total(items):.2f}")
    return "\\n".join(lines)
'''
NUMBERED: Final = "".join(f"{number:6}\t{line}\n" for number, line in enumerate(SOURCE.splitlines(), 1))
RENAMED: Final = SOURCE.replace("total(", "amount(")
MENDED: Final = RENAMED.replace("item.count < 0", "item.count < 1")


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def script(read: str, write: str, path: str, name: str = "path") -> tuple[str, ...]:
    """What the target says turn by turn. `read` and `write` are tools, `name` their parameter for `path`."""
    return (
        "I will look at the file first.\n" + call(read, **{name: path}),
        call(write, **{name: path, "content": RENAMED}),
        "The tests want a count of zero to be refused, too.\n"
        + call(write, **{name: path, "content": MENDED}),
        "`total` is called `amount` now, and a count of zero is refused.",
    )


SCRIPT: Final = script("read", "write", "order.py")


def parameters(*names: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": [*names],
    }


TOOLS: Final[Any] = [
    {"type": "function", "function": {"name": "read", "parameters": parameters("path")}},
    {"type": "function", "function": {"name": "write", "parameters": parameters("path", "content")}},
]
QUOTING: Final = 1
"""The turn whose call says what a tool has said."""
REPEATING: Final = 2
"""The turn whose call says once more what the one before it said."""
TASK: Final = "Rename the function `total` of order.py to `amount`, and run the tests."
TARGET: Final = 0.2
"""Passes a token, at most."""
RESULTS: Final = ("1 failed: test_zero: DID NOT RAISE ValueError for a count of 0", "3 passed")


class Figures:
    """What the answers of a loop cost; a line for each is printed (`pytest -s`)."""

    def __init__(self) -> None:
        self.tokens = 0
        self.passes = 0
        self.of_turn: list[float] = []

    def add(self, stats: Mapping[str, Any], tokens: int, prompt: str) -> None:
        passes = stats["target_passes"]
        self.tokens += tokens
        self.passes += passes
        self.of_turn.append(passes / tokens)
        print(
            f"turn {len(self.of_turn)}: {stats['route']}, {tokens} tokens in {passes} passes "
            f"({passes / tokens:.2f}), {stats['draft_tokens_accepted']} drafts accepted, "
            f"{stats['uplink_bytes']} bytes up; prompt: {prompt}"
        )
        assert stats["route"] == "collaborative"

    def check(self) -> None:
        """Turns that say what was said before, and all of them, take few passes."""
        print(f"all: {self.passes_per_token:.3f} passes a token")
        assert max(self.of_turn[QUOTING], self.of_turn[REPEATING], self.passes_per_token) <= TARGET

    @property
    def passes_per_token(self) -> float:
        return self.passes / self.tokens


class Seen:
    """The answers that the gateway gave, whatever asked for them."""

    def __init__(self) -> None:
        self.answers: list[Finished] = []

    def started(self) -> None: ...

    def gap(self, model: str, route: str, elapsed_s: float) -> None: ...

    def finished(self, request: Finished) -> None:
        self.answers.append(request)


class Gateway(NamedTuple):
    url: str
    project: Path
    """Where an agent works that has files."""
    seen: Seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One without a draft model, before a target that follows the script of the tools that it is told of."""
    project, seen = tmp_path_factory.mktemp("project"), Seen()
    of_cli = script("read_file", "write_file", str(project / "order.py"), "file_path")

    def says(prompt: str) -> str:
        turns = of_cli if '"write_file"' in prompt else SCRIPT
        return turns[min(prompt.count(TOOL_SAID), len(turns) - 1)]

    async with (
        scripted_server(pruned_pair().target, tmp_path_factory.mktemp("scripted"), says, *FLAGS) as server,
        started_agent(server, "none", draft="none") as agent,
        serving(create_app(agent, observers=[seen])) as url,
    ):
        yield Gateway(url, project, seen)


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("result", [SOURCE, NUMBERED], ids=["file", "numbered lines"])
async def test_a_loop_of_tool_calls(client: AsyncOpenAI, result: str) -> None:
    """A file is read, rewritten, and rewritten again: most of it stood in the conversation before.

    What a tool said stands there as it is, some with numbers before the lines, and in a call as a JSON
    string, in which line ends are other tokens. A call that repeats one is copied as a whole.
    """
    figures = Figures()
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for turn, wanted in enumerate(SCRIPT):
        async with client.chat.completions.stream(
            model="scripted", messages=messages, tools=TOOLS, stream_options={"include_usage": True}
        ) as events:
            last: Any = None
            async for event in events:
                if event.type == "chunk" and (event.chunk.model_extra or {}).get("pipesd"):
                    last = event.chunk.model_extra["pipesd"]
            answer = await events.get_final_completion()
        message = answer.choices[0].message
        assert answer.usage is not None
        details = answer.usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        figures.add(last, answer.usage.completion_tokens, f"{answer.usage.prompt_tokens}, {cached} cached")
        assert (message.content or "").strip() == wanted.partition("<tool_call>")[0].strip()
        calls = message.tool_calls or []
        assert len(calls) == wanted.count("<tool_call>")
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        for tool_call in calls:
            sent = json.loads(wanted.partition("<tool_call>")[2].partition("</tool_call>")[0])
            assert json.loads(tool_call.function.arguments) == sent["arguments"]
            messages.append(
                {"role": "tool", "tool_call_id": tool_call.id, "content": (result, *RESULTS)[turn]}
            )
    figures.check()


async def test_a_coding_agent(gateway: Gateway, tmp_path: Path) -> None:
    """Qwen Code, with its own instructions and tools, edits a file as the script says."""
    cli = installed(AGENTS) / "node_modules" / "@qwen-code" / "qwen-code" / "cli.js"
    file = gateway.project / "order.py"
    file.write_text(SOURCE, encoding="utf-8")
    (tmp_path / ".qwen").mkdir()
    (tmp_path / ".qwen" / "settings.json").write_text(json.dumps(QUIET), encoding="utf-8")
    told = {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "default"}
    gateway.seen.answers.clear()
    process = await asyncio.create_subprocess_exec(
        *("node", cli, "--auth-type", "openai", "--yolo", "--prompt", TASK),
        cwd=gateway.project,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"} | told,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, errors.decode()
    assert SCRIPT[-1] in output.decode()
    assert file.read_text(encoding="utf-8") == MENDED
    assert len(gateway.seen.answers) == len(SCRIPT)
    figures = Figures()
    for answer in gateway.seen.answers:
        figures.add(answer.stats, answer.completion_tokens, str(answer.prompt_tokens))
    figures.check()
