"""Edge agent, gateway and server as one thing to benchmark: all real parts, nothing emulated."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import openai

from benchmarks.harness.clients import TimedAnswer, connected, stream_completion
from benchmarks.conditions import QUIET, Conditions
from benchmarks.figures import Sample, Way, draft_figures
from benchmarks.gateway_host import hosted_gateway
from benchmarks.link import delayed_link
from benchmarks.harness.recorder import RecordingGenerator
from edge_agent.generation import GenerationRequest, GenerationStats, Generator, Route, SamplingSettings
from edge_agent.parameter_sources import ParameterSources
from edge_agent.settings import EdgeSettings
from edge_agent.target import TargetInfo
from openai_gateway.tokenization import TargetText

__all__ = ["Measured", "Pair", "connected_pair", "started_pair"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation: its figures and its text (empty for the way `local`, whose text is not compared)."""

    sample: Sample
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends, ready to be asked."""

    recorder: RecordingGenerator
    gateway: openai.AsyncOpenAI
    cloud: openai.AsyncOpenAI
    target: TargetInfo
    text: TargetText

    async def measure(self, way: Way, prompt_token_ids: Sequence[int], num_tokens: int) -> Measured:
        """Continue a prompt by exactly `num_tokens` tokens. Raises `CliError`, `EdgeError`."""
        if way is Way.LOCAL:
            return await self._measure_local(prompt_token_ids, num_tokens)
        client = self.gateway if way is Way.COLLABORATIVE else self.cloud
        answer = await stream_completion(client, self.target.model, prompt_token_ids, num_tokens)
        sample = self.sample(answer) if way is Way.COLLABORATIVE else answer.sample()
        return Measured(sample, answer.text)

    def sample(self, answer: TimedAnswer) -> Sample:
        """The client's times of an answer of the gateway, with the agent's figures. Once an answer."""
        stats = self.recorder.take(answer.answer_id).stats
        return replace(answer.sample(), draft=draft_figures(stats))

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself; empty for a special one."""
        detokenizer = self.text.detokenizer(())
        return detokenizer.push((token_id,)) + detokenizer.flush()

    async def _measure_local(self, prompt_token_ids: Sequence[int], num_tokens: int) -> Measured:
        request = GenerationRequest(
            f"local-{uuid.uuid4().hex}",
            tuple(prompt_token_ids),
            SamplingSettings(num_tokens, ignore_eos=True),
            Route.LOCAL,
        )
        stats = GenerationStats()
        async for chunk in self.recorder.generate(request):
            stats = chunk.stats
        self.recorder.take(request.request_id)
        assert stats.tpt_ms is not None, "the draft model gave no token"
        assert stats.ttft_ms is not None
        return Measured(Sample(stats.tpt_ms, stats.ttft_ms), "")


@asynccontextmanager
async def started_pair(
    settings: EdgeSettings, conditions: Conditions = QUIET, sources: ParameterSources | None = None
) -> AsyncIterator[Pair]:
    """Start an edge agent and its gateway for a server that runs. Raises `EdgeError`, `CliError`.

    Both the agent and plain streaming go over the link that `conditions` describe. `sources`: where
    sessions get their parameters from, if not from `settings`.
    """
    from edge_agent.agent import EdgeAgent

    async with delayed_link(settings.cloud_url, conditions.rtt_s) as linked_url:
        linked = settings.model_copy(update={"cloud_url": linked_url}) if conditions.rtt_s else settings
        agent = await EdgeAgent.start(linked, conditions.load_drafter, sources)
        async with _hosted(agent, linked) as pair:
            yield pair


@asynccontextmanager
async def _hosted(agent: Generator, settings: EdgeSettings) -> AsyncIterator[Pair]:
    try:
        async with connected_pair(agent, f"{settings.cloud_url}/v1", settings.cloud_key) as pair:
            yield pair
    finally:
        await agent.close()


@asynccontextmanager
async def connected_pair(
    generator: Generator, cloud_base_url: str, api_key: str | None
) -> AsyncIterator[Pair]:
    """Put a gateway before `generator`, which stays open, and connect clients to both ends."""
    recorder = RecordingGenerator(generator)
    async with (
        hosted_gateway(recorder) as gateway_base_url,
        connected(gateway_base_url, None) as gateway,
        connected(cloud_base_url, api_key) as cloud,
    ):
        yield Pair(recorder, gateway, cloud, await recorder.target(), TargetText(await recorder.tokenizer()))
