"""What the demo shows, on real gateways with scripted generations at both ends."""

import io

import openai
from rich.console import Console
from tokenizers import Tokenizer

from edge_agent.api import FinishReason, TargetInfo
from edge_agent.testing import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.cli.demo import present
from openai_gateway.cli.hosting import hosted_gateway

QUESTION = "Is [this] a fox?"
BUNDLE = fake_tokenizer_bundle(["the quick brown fox", "hello [world], hello you"])


def answering(text: str) -> FakeGenerator:
    tokenizer = Tokenizer.from_str(BUNDLE.tokenizer_json)
    script = Script(tuple(tokenizer.encode(text).ids), FinishReason.LENGTH, chunk_tokens=3)
    return FakeGenerator(TargetInfo("org/target", 64, tokenizer.get_vocab_size()), BUNDLE, script)


async def shown(ours: str, plain: str) -> str:
    out = Console(file=io.StringIO(), width=100, color_system=None, highlight=False)
    async with (
        hosted_gateway(answering(ours)) as gateway_url,
        hosted_gateway(answering(plain)) as server_url,
        openai.AsyncOpenAI(base_url=gateway_url, api_key="unused") as gateway,
        openai.AsyncOpenAI(base_url=server_url, api_key="unused") as server,
    ):
        await present(gateway, server, "org/target", QUESTION, 30, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


async def test_question_answer_and_table() -> None:
    """The question is shown as typed, then the answer, then all figures."""
    printed = await shown("hello [world]", "hello [world]")
    assert f"You: {QUESTION}" in printed
    assert "org/target: hello [world]\n" in printed
    for label in ("TTFT", "TPT", "tokens/s", "target passes", "bytes up", "plain streaming"):
        assert label in printed
    assert "are the same" in printed


async def test_a_difference_is_not_hidden() -> None:
    """It says where to look further."""
    assert "bench exact" in await shown("hello world", "hello you")
