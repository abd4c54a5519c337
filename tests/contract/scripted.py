"""A gateway on a fake agent whose answers, of the target and of the server's own API, are scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import msgspec
from tokenizers import Tokenizer

from edge_agent.api import ForwardedAnswer, TargetInfo
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.app import create_app
from openai_gateway.http import LOOPBACK_ONLY, AccessPolicy
from openai_gateway.testing import chat_chunk
from tests.e2e.stack import serving

MODEL = "org/target"
LOCAL = f"{MODEL}:local"
ANSWER = "naïve café: 日本語 🙂, and so on."
WEATHER = '{"city": "Paris"}'
CALL: dict[str, Any] = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": ""},
}
CALL_DELTAS = (
    {"tool_calls": [CALL]},
    *(
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        for piece in ('{"city"', ': "Paris"}')
    ),
)
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@cache
def _tokens() -> tuple[Any, Tokenizer]:
    bundle = fake_tokenizer_bundle([ANSWER, "hello world"])
    return bundle, Tokenizer.from_str(bundle.tokenizer_json)


def answering(text: str = ANSWER, **options: Any) -> FakeGenerator:
    """An agent that answers `text`; `options` as of `Script`."""
    bundle, tokenizer = _tokens()
    token_ids = (*tokenizer.encode(text).ids, *bundle.eos_token_ids[-1:])
    target = TargetInfo(MODEL, 512, tokenizer.get_vocab_size())
    return FakeGenerator(target, bundle, Script(token_ids, **options))


def calling(deltas: Sequence[Mapping[str, Any]] = CALL_DELTAS, finish: str = "tool_calls") -> FakeGenerator:
    """An agent whose server, on its own API, streams `deltas`, or gives them whole."""
    generator = answering()
    generator.cloud = cloud(deltas, finish)
    return generator


def cloud(
    deltas: Sequence[Mapping[str, Any]], finish: str
) -> Callable[[str, Mapping[str, Any]], ForwardedAnswer]:
    """The server's own chat endpoint, and its `/tokenize`."""

    def answer(path: str, body: Mapping[str, Any]) -> ForwardedAnswer:
        if path == "/tokenize":
            return FakeForwardedAnswer(200, [b'{"count": 42}'])
        if not body.get("stream"):
            return FakeForwardedAnswer(200, [msgspec.json.encode(_whole(deltas, finish))])
        chunks = [chat_chunk({"role": "assistant", "content": ""}), *(chat_chunk(dict(d)) for d in deltas)]
        chunks += [chat_chunk({}, finish), chat_chunk({}) | {"choices": [], "usage": USAGE}]
        events = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]
        return FakeForwardedAnswer(200, [*events, b"data: [DONE]\n\n"])

    return answer


def _whole(deltas: Sequence[Mapping[str, Any]], finish: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in deltas:
        for field in ("content", "reasoning"):
            if field in delta:
                message[field] = (message.get(field) or "") + delta[field]
    if any("tool_calls" in delta for delta in deltas):
        function = CALL["function"] | {"arguments": WEATHER}
        message["tool_calls"] = [{**CALL, "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return chat_chunk({}) | {"object": "chat.completion", "choices": [choice], "usage": USAGE}


@asynccontextmanager
async def gateway(
    generator: FakeGenerator, key: str | None = None, access: AccessPolicy = LOOPBACK_ONLY
) -> AsyncIterator[str]:
    """The gateway on a free port; gives scheme, host and port."""
    async with serving(create_app(generator, api_key=key, access=access)) as url:
        yield url
