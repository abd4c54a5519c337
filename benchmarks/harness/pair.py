"""Edge agent, gateway and server as one thing to benchmark, all real parts."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks.harness.clients import Client, TimedAnswer, connected, exactly
from benchmarks.harness.pacing import PacedDrafter
from benchmarks.harness.recorder import RecordingGenerator
from benchmarks.harness.rivals import Way
from benchmarks.netlink.proxy import delayed_link
from edge_agent.api import GenerationRequest, Generator, Route, Sampling, TargetInfo
from edge_agent.drafting import Drafter
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["Pair", "connected_pair", "paced_drafter", "started_pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends, ready to be asked."""

    recorder: RecordingGenerator
    gateway: Client
    cloud: Client
    target: TargetInfo
    text: TargetText

    async def answer(self, way: Way, prompt: Sequence[int], num_tokens: int) -> TimedAnswer:
        """Continue a prompt greedily by exactly `num_tokens` tokens. Raises `CliError`, `EdgeError`."""
        if way is Way.LOCAL:
            return await self._locally(prompt, num_tokens)
        body = {"model": self.target.model, "prompt": list(prompt), **exactly(num_tokens)}
        if way is Way.CLOUD:
            answer = await self.cloud.stream(body)
        else:
            answer = await self.gateway.stream(body)
            answer = replace(answer, stats=self.recorder.take(answer.answer_id).stats)
        if answer.num_tokens != num_tokens:
            raise CliError(f"{way} gave {answer.num_tokens} tokens instead of {num_tokens}.")
        return answer

    async def _locally(self, prompt: Sequence[int], num_tokens: int) -> TimedAnswer:
        """Its text, which nobody compares, is left empty."""
        request = GenerationRequest(
            f"local-{uuid.uuid4().hex}",
            tuple(prompt),
            Sampling(num_tokens, ignore_eos=True),
            Route.LOCAL,
        )
        started_s = time.perf_counter()
        chunks = self.recorder.generate(request)
        arrivals_s = tuple([time.perf_counter() async for chunk in chunks if chunk.token_ids])
        stats = self.recorder.take(request.request_id).stats
        return TimedAnswer("", "", stats.completion_tokens, started_s, arrivals_s, arrivals_s, stats)


def paced_drafter(settings: EdgeSettings, gamma_s: float) -> Drafter:
    """The draft model of `settings`, no faster than `gamma_s` a token. Raises `ModelError`."""
    from edge_agent.drafting import load_drafter

    drafter = load_drafter(settings)
    return PacedDrafter(drafter, gamma_s) if gamma_s else drafter


@asynccontextmanager
async def started_pair(
    settings: EdgeSettings, *, rtt_s: float = 0.0, gamma_s: float = 0.0
) -> AsyncIterator[Pair]:
    """Start an edge agent and its gateway for a server that runs. Raises `EdgeError`, `CliError`.

    `rtt_s` is added to the link, for agent and plain streaming alike; a draft token takes `gamma_s` at least.
    """
    from edge_agent.agent import EdgeAgent
    from edge_agent.drafting import drafts_without_model

    async with AsyncExitStack() as stack:
        if rtt_s:
            url = await stack.enter_async_context(delayed_link(settings.cloud_url, rtt_s))
            settings = settings.model_copy(update={"cloud_url": url})
        has_model = not drafts_without_model(settings)
        load = (lambda chosen: paced_drafter(chosen, gamma_s)) if has_model else None
        agent = await EdgeAgent.start(settings, load)
        stack.push_async_callback(agent.close)
        yield await stack.enter_async_context(connected_pair(agent, settings.cloud_url, settings.cloud_key))


@asynccontextmanager
async def connected_pair(generator: Generator, cloud_url: str, api_key: str | None) -> AsyncIterator[Pair]:
    """Put a gateway before `generator`, which stays open, and connect clients to both ends."""
    recorder = RecordingGenerator(generator)
    async with (
        hosted_gateway(recorder) as gateway_url,
        connected(gateway_url) as gateway,
        connected(cloud_url, api_key) as cloud,
    ):
        yield Pair(recorder, gateway, cloud, await recorder.target(), TargetText(await recorder.tokenizer()))
