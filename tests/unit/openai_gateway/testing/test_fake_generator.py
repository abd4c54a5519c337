from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import pytest
from tokenizers import Tokenizer

from edge_agent.api import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Generator,
    Sampling,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator, Script

MakeFake = Callable[[Script], FakeGenerator]


@pytest.fixture
def fake(target: TargetInfo, bundle: TokenizerBundle) -> MakeFake:
    return lambda script: FakeGenerator(target, bundle, script)


def request(max_tokens: int = 100) -> GenerationRequest:
    return GenerationRequest("id", (1, 2), Sampling(max_tokens))


async def run(generator: Generator, max_tokens: int = 100) -> list[GenerationChunk]:
    return [chunk async for chunk in generator.generate(request(max_tokens))]


async def test_plays_its_script(fake: MakeFake) -> None:
    """Tokens come in chunks of the scripted size, the reason with the last one, the figures counted."""
    generator = fake(Script((5, 6, 7), chunk_tokens=2))
    chunks = await run(generator)
    assert [(chunk.token_ids, chunk.finish_reason) for chunk in chunks] == [
        ((5, 6), None),
        ((7,), FinishReason.STOP),
    ]
    stats = chunks[-1].stats
    assert (stats.completion_tokens, stats.target_passes, stats.draft_tokens_accepted) == (3, 2, 1)
    assert generator.records[0].request == request()
    assert generator.records[0].finished


@pytest.mark.parametrize(
    ("max_tokens", "reason"), [(1, FinishReason.LENGTH), (2, FinishReason.STOP), (3, FinishReason.STOP)]
)
async def test_max_tokens(fake: MakeFake, max_tokens: int, reason: FinishReason) -> None:
    """`max_tokens` cuts the script as it cuts a real generation."""
    chunks = await run(fake(Script((5, 6))), max_tokens)
    assert sum(len(chunk.token_ids) for chunk in chunks) == min(max_tokens, 2)
    assert chunks[-1].finish_reason is reason


async def test_raises_its_error_where_it_is_scripted(fake: MakeFake) -> None:
    """A scripted error comes after the tokens before it."""
    chunks = fake(Script((5, 6), error=CloudUnreachable("lost"), error_after=1)).generate(request())
    assert (await anext(chunks)).token_ids == (5,)
    with pytest.raises(CloudUnreachable, match="lost"):
        await anext(chunks)


async def test_records_an_early_close(fake: MakeFake) -> None:
    """A reader that closes before the end is told apart from one that reads to it."""
    generator = fake(Script((5, 6)))
    chunks = cast("AsyncGenerator[GenerationChunk]", generator.generate(request()))
    async with aclosing(chunks):
        await anext(chunks)
    assert generator.records[0].closed_early


async def test_delays(fake: MakeFake) -> None:
    """A scripted delay holds the first chunk back."""
    chunks = fake(Script((5,), first_delay_s=60)).generate(request())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(chunks), 0.01)


async def test_unreachable(fake: MakeFake, target: TargetInfo) -> None:
    """While `unreachable` is set, target and tokenizer raise it."""
    generator = fake(Script(()))
    generator.unreachable = CloudUnreachable("down")
    with pytest.raises(CloudUnreachable):
        await generator.target()
    with pytest.raises(CloudUnreachable):
        await generator.tokenizer()
    generator.unreachable = None
    assert await generator.target() == target


async def test_close_is_recorded(fake: MakeFake) -> None:
    """Closing is noted; health is the scripted one."""
    generator = fake(Script(()))
    assert await generator.health() == {"status": "ok"}
    await generator.close()
    assert generator.closed


def test_every_byte_is_a_token(tokenizer: Tokenizer) -> None:
    """The fake tokenizer encodes any text, also what it was not trained on."""
    text = "Ωμέγα \x00 🦊"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
