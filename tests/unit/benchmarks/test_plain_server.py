"""What is asked of vLLM's own API, and how its answers are read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from benchmarks.differences import Continuation
from benchmarks.plain_server import PlainServer, parse_token_logprobs
from edge_agent.generation import FinishReason, SamplingSettings
from openai_gateway.cli.errors import CliError

SAMPLING = SamplingSettings(2, ignore_eos=True)


class Vllm:
    """Answers every request with one choice and remembers what it was asked."""

    def __init__(self, **choice: Any) -> None:
        self.choice = {"index": 0, "text": "ab", "finish_reason": "length", "logprobs": None, **choice}
        self.asked: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked = json.loads(request.content)
        body = {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [self.choice]}
        return httpx.Response(200, json=body)


@asynccontextmanager
async def asking(handler: Callable[[httpx.Request], httpx.Response]) -> AsyncIterator[PlainServer]:
    transport = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    async with openai.AsyncOpenAI(
        base_url="http://server/v1", api_key="k", http_client=transport, max_retries=0
    ) as client:
        yield PlainServer(client, "m")


async def test_complete() -> None:
    """Token ids come with the text; the model's own generation config is kept out."""
    vllm = Vllm(token_ids=[7, 8])
    async with asking(vllm) as plain:
        assert await plain.complete((1, 2), SAMPLING) == Continuation((7, 8), "ab", FinishReason.LENGTH)
    assert vllm.asked["prompt"] == [1, 2]
    assert vllm.asked["return_token_ids"] is True
    assert vllm.asked["ignore_eos"] is True
    assert vllm.asked["repetition_penalty"] == 1.0


async def test_most_likely() -> None:
    """Log-probabilities come by token id, from one fresh token."""
    vllm = Vllm(logprobs={"top_logprobs": [{"token_id:7": -0.1, "token_id:9": -2.5}]})
    async with asking(vllm) as plain:
        assert await plain.most_likely((1, 2)) == {7: -0.1, 9: -2.5}
    assert (vllm.asked["max_tokens"], vllm.asked["temperature"]) == (1, 0.0)


async def test_other_servers_are_found_out() -> None:
    """A server without vLLM's extensions ends in a sentence."""
    async with asking(Vllm()) as plain:
        with pytest.raises(CliError, match="no token ids"):
            await plain.complete((1,), SAMPLING)
        with pytest.raises(CliError, match="no log-probabilities"):
            await plain.most_likely((1,))


def test_parse_token_logprobs() -> None:
    """vLLM writes token ids as strings."""
    assert parse_token_logprobs({"token_id:5": -0.1}) == {5: -0.1}


async def test_sampled_text_names_the_seed_of_our_noise() -> None:
    """At a temperature the server's own API is asked for the same noise and the same parameters."""
    sampling = SamplingSettings(4, 0.7, 0.9, seed=11, presence_penalty=0.5, repetition_penalty=1.1)
    vllm = Vllm(token_ids=[7])
    async with asking(vllm) as plain:
        await plain.complete((1, 2), sampling)
        assert vllm.asked["vllm_xargs"] == {"pipesd_seed": 11}
        assert (vllm.asked["temperature"], vllm.asked["top_p"]) == (0.7, 0.9)
        assert (vllm.asked["presence_penalty"], vllm.asked["repetition_penalty"]) == (0.5, 1.1)
        await plain.complete((1, 2), SAMPLING)
        assert "vllm_xargs" not in vllm.asked
