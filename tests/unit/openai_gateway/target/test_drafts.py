"""Drafts shown before they are verified, and what an answer has saved so far."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from edge_agent.api import GenerationStats, Route, TokenizerBundle
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.local import TargetText
from openai_gateway.target.drafts import ProvisionalText

TEXT = "naïve café, 日本語 🙂 and so on."
CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
ASKED = {"x-pipesd-drafts": "1"}
Post = Callable[..., Awaitable[httpx.Response]]


async def streamed(
    generator: FakeGenerator, headers: dict[str, str], path: str = "/v1/chat/completions"
) -> list[dict[str, Any]]:
    transport = httpx.ASGITransport(create_app(generator))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        body = CHAT | {"max_tokens": 500} if "messages" in path else CHAT
        answer = await http.post(path, json=body, headers=headers)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def contents(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_drafts_come_as_chunks_of_their_own(generator_for: Callable[..., FakeGenerator]) -> None:
    """They are marked, hold no choice, and say what follows the text so far; the text is the same without."""
    generator = generator_for(TEXT, chunk_tokens=3, delay_s=0.005)
    chunks = await streamed(generator, ASKED)
    text, matches, num_shown = "", 0, 0
    for chunk in chunks:
        text += contents([chunk])
        if provisional := (chunk.get("pipesd") or {}).get("provisional"):
            assert chunk["choices"] == []
            assert "usage" not in chunk
            num_shown += bool(provisional["text"])
            matches += bool(provisional["text"]) and TEXT.startswith(text + provisional["text"])
    assert text == TEXT
    assert matches == num_shown > 2
    plain = await streamed(generator_for(TEXT, chunk_tokens=3), {})
    assert contents(plain) == TEXT
    assert not [chunk for chunk in plain if "provisional" in (chunk.get("pipesd") or {})]


async def test_wrong_drafts_are_shown_and_replaced(generator_for: Callable[..., FakeGenerator]) -> None:
    """A draft that the target does not want is never part of the text."""
    generator = generator_for(TEXT, chunk_tokens=3, delay_s=0.005, wrong_every=2)
    chunks = await streamed(generator, ASKED)
    shown = [chunk["pipesd"]["provisional"]["text"] for chunk in chunks if not chunk["choices"]]
    assert contents(chunks) == TEXT
    assert any(text and text not in TEXT for text in shown)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_other_protocols_have_no_place_for_drafts(
    generator_for: Callable[..., FakeGenerator], path: str
) -> None:
    """Their events are theirs alone, whatever the header says."""
    generator = generator_for("hello", chunk_tokens=2)
    transport = httpx.ASGITransport(create_app(generator))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        body = {"messages": CHAT["messages"], "input": "hi", "stream": True, "max_tokens": 50}
        kept = ("messages", "max_tokens") if "messages" in path else ("input",)
        sent = {name: body[name] for name in (*kept, "stream")} | {"model": "default"}
        answer = await http.post(path, json=sent, headers=ASKED)
    assert answer.status_code == 200
    assert "provisional" not in answer.text
    assert not generator.records[0].request.shows_drafts  # type: ignore[union-attr]


async def test_a_tokenizer_that_cannot_be_had_hides_drafts_alone(
    generator_for: Callable[..., FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is as without."""
    generator = generator_for(TEXT, chunk_tokens=3)

    async def away(*, offline: bool = False) -> TokenizerBundle:
        raise CloudUnreachable("away")

    monkeypatch.setattr(generator, "tokenizer", away)
    chunks = await streamed(generator, ASKED)
    assert contents(chunks) == TEXT
    assert not any((chunk.get("pipesd") or {}).get("provisional", {}).get("text") for chunk in chunks)


async def test_what_is_committed_stays_in_sight(bundle: TokenizerBundle) -> None:
    """Between a token's commit and its text the client is told of it."""
    text = TargetText(bundle)

    async def load() -> TargetText:
        return text

    provisional = ProvisionalText(load, lambda: 0.0)
    await provisional._loading
    ids = await text.encode_prompt("hello 🙂")

    def told() -> str | None:
        chunk = provisional.chunk({"id": "x"}, GenerationStats())
        return None if chunk is None else str(chunk["pipesd"]["provisional"]["text"])

    provisional.drafted(ids)
    assert told() == "hello 🙂"
    provisional.committed(ids[:2])
    provisional.drafted(ids[2:])
    assert told() is None  # nothing has changed for the client
    provisional.given(2)
    provisional.drafted(())
    assert told() == ""
    provisional.close()


def test_savings_are_known_or_not() -> None:
    """Gains and losses both; nothing where there is nothing to compare."""
    stats = GenerationStats(
        completion_tokens=100, longest_tokens=100, target_passes=39, streaming_s=0.05, streamed_bytes=20_000
    )
    stats.first_token_s, stats.last_token_s = 1.0, 7.0
    stats.uplink_bytes, stats.downlink_bytes = 9_000, 16_000
    assert (stats.saved_passes, stats.saved_bytes) == (61, -5_000)
    assert stats.saved_ms == pytest.approx(-1050.0)
    stats.streaming_s = 0.1
    assert stats.saved_ms == pytest.approx(3900.0)
    for other in (
        GenerationStats(Route.CLOUD, completion_tokens=3),
        GenerationStats(Route.LOCAL, completion_tokens=3),
        GenerationStats(completion_tokens=3, drafted=False, streaming_s=1.0, streamed_bytes=1),
        GenerationStats(),
    ):
        assert (other.saved_passes, other.saved_ms, other.saved_bytes) == (None, None, None)


@pytest.mark.parametrize("others", [(), (70,), (100,), (5, 100, 1)])
def test_time_is_saved_against_answers_that_stream_side_by_side(others: tuple[int, ...]) -> None:
    """Several take as long as the longest of them, not as long as all of them one after the other."""
    stats = GenerationStats(completion_tokens=100 + sum(others), longest_tokens=100, streaming_s=0.05)
    stats.first_token_s, stats.last_token_s = 1.0, 4.0
    assert stats.saved_ms == pytest.approx(99 * 50.0 - 3000.0)


async def test_the_last_chunk_says_what_was_saved(generator_for: Callable[..., FakeGenerator]) -> None:
    """Every client gets the savings, and the mode in force with its reason."""
    figures = {"in_force": "wait", "in_force_reason": "it pays", "streaming_s": 0.02, "streamed_bytes": 9000}
    chunks = await streamed(generator_for(TEXT, chunk_tokens=4, figures=figures), {})
    told = chunks[-1]["pipesd"]
    assert (told["in_force"], told["in_force_reason"]) == ("wait", "it pays")
    assert told["savings"]["passes"] > 0
    assert told["savings"]["ms"] > 0
    assert told["savings"]["bytes"] < 9000
