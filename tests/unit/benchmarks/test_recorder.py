"""Listening in between gateway and agent changes nothing."""

from collections.abc import AsyncGenerator, Callable
from typing import cast

import pytest

from benchmarks.harness.recorder import RecordingGenerator
from edge_agent.fake_generator import FakeGenerator
from edge_agent.generation import FinishReason, GenerationChunk, GenerationRequest, SamplingSettings

REQUEST = GenerationRequest("one", (5, 6), SamplingSettings(8))


async def test_passes_all_through_and_keeps_it(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Same chunks; tokens, reason and stats can be taken once."""
    recorder = RecordingGenerator(make_fake("hello world"))
    chunks = [chunk async for chunk in recorder.generate(REQUEST)]
    recording = recorder.take("one")
    assert recording.request is REQUEST
    assert tuple(recording.token_ids) == sum((chunk.token_ids for chunk in chunks), ())
    assert recording.finish_reason is FinishReason.LENGTH
    assert recording.stats.completion_tokens == len(recording.token_ids)
    with pytest.raises(KeyError):
        recorder.take("one")


async def test_a_reader_that_leaves_ends_the_generation(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Closing the recorder's iterator closes the agent's at once."""
    fake = make_fake("hello world, hello you")
    chunks = cast("AsyncGenerator[GenerationChunk, None]", RecordingGenerator(fake).generate(REQUEST))
    await anext(chunks)
    await chunks.aclose()
    assert fake.records[0].closed_early


async def test_the_rest_is_the_generators_own(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Target, tokenizer, health and the end are passed on."""
    fake = make_fake("hello")
    recorder = RecordingGenerator(fake)
    assert await recorder.target() == await fake.target()
    assert await recorder.tokenizer() == await fake.tokenizer()
    assert await recorder.health() == {"status": "ok"}
    await recorder.close()
    assert fake.closed
