"""Programs that work in a loop of tool calls, through the gateway: what they cost with looked-up drafts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.pruned_pair import pruned_pair

from .scripted_target import ASSISTANT, scripted_server
from .stack import gateway_client, started_agent

pytestmark = [pytest.mark.client, pytest.mark.asyncio(loop_scope="module")]

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
RENAMED: Final = SOURCE.replace("total(", "amount(")
MENDED: Final = RENAMED.replace("item.count < 0", "item.count < 1")


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


SCRIPT: Final = (
    "I will look at the file first.\n" + call("read", path="order.py"),
    call("write", path="order.py", content=RENAMED),
    "The tests want a count of zero to be refused, too.\n" + call("write", path="order.py", content=MENDED),
    "`total` is called `amount` now, and a count of zero is refused.",
)


def says(prompt: str) -> str:
    """The answer of the turn that `prompt` ends in, by how many there were before."""
    return SCRIPT[min(prompt.count(ASSISTANT) - 1, len(SCRIPT) - 1)]


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
RESULTS: Final = (SOURCE, "1 failed: test_zero: DID NOT RAISE ValueError for a count of 0", "3 passed")


class Figures:
    """What the answers of a loop cost; a line for each is printed (`pytest -s`)."""

    def __init__(self) -> None:
        self.tokens = 0
        self.passes = 0
        self.of_turn: list[float] = []

    def add(self, turn: int, figures: dict[str, Any], usage: Any) -> None:
        tokens, passes = usage.completion_tokens, figures["target_passes"]
        self.tokens += tokens
        self.passes += passes
        self.of_turn.append(passes / tokens)
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        accepted = figures["draft_tokens_accepted"]
        print(
            f"turn {turn}: {figures['route']}, {tokens} tokens in {passes} passes ({passes / tokens:.2f}), "
            f"{accepted} drafts accepted; {usage.prompt_tokens} tokens of prompt, {cached} cached"
        )

    @property
    def passes_per_token(self) -> float:
        return self.passes / self.tokens


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's, of a gateway without a draft model, before a target that follows the script."""
    folder = tmp_path_factory.mktemp("scripted")
    async with (
        scripted_server(pruned_pair().target, folder, says, *FLAGS) as url,
        started_agent(url, "none", draft="none") as agent,
        gateway_client(agent) as client,
    ):
        yield client


async def test_a_loop_of_tool_calls(client: AsyncOpenAI) -> None:
    """A file is read, rewritten, and rewritten again: most of it stood in the conversation before.

    What a tool said stands there as it is, and in a call as a JSON string, in which line ends are other
    tokens. A call that repeats one is copied as a whole.
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
        figures.add(turn, last, answer.usage)
        assert last["route"] == "collaborative"
        assert (message.content or "").strip() == wanted.partition("<tool_call>")[0].strip()
        calls = message.tool_calls or []
        assert len(calls) == wanted.count("<tool_call>")
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        for tool_call in calls:
            sent = json.loads(wanted.partition("<tool_call>")[2].partition("</tool_call>")[0])
            assert json.loads(tool_call.function.arguments) == sent["arguments"]
            messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": RESULTS[turn]})
    print(f"all: {figures.passes_per_token:.3f} passes a token")
    assert figures.of_turn[QUOTING] <= 0.2
    assert figures.of_turn[REPEATING] <= 0.2
    assert figures.passes_per_token <= 0.2
