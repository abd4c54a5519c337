"""What HTTP and gateway add to a generation: to the time to its first token, and to each token."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

from tokenizers import Tokenizer

from benchmarks.harness.clients import Clock, TimedAnswer, connected, exactly, question
from benchmarks.harness.recorder import Recording, RecordingGenerator
from edge_agent.api import GenerationRequest, Generator, Route, Sampling, TargetInfo
from edge_agent.testing.generator import FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import hosted_gateway

__all__ = [
    "Cost",
    "Spread",
    "added_in_an_answer",
    "instant_generator",
    "measure_live_cost",
    "measure_pure_cost",
]

_QUESTION: Final = question(
    "Tell me about the history of bread, in as many words as you like, and leave nothing out."
)
_TEXT: Final = "a generator that takes no time leaves the cost of the gateway alone "
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of `num` samples."""

    median: float
    p90: float
    num: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of at least two samples."""
        return cls(median(samples), quantiles(samples, n=10, method="inclusive")[-1], len(samples))


@dataclass(frozen=True, slots=True)
class Cost:
    """ms that HTTP and gateway add."""

    token_ms: Spread
    ttft_ms: Spread


def added_in_an_answer(recording: Recording, answer: TimedAnswer) -> tuple[float, tuple[float, ...]]:
    """ms added to the time to the first token, and to the way of each later piece of text.

    `recording` and `answer` are the same generation before and behind the gateway, on one clock. Of the
    pieces none are given if the gateway joined chunks, so that they cannot be told apart.
    """
    ttft_ms = (answer.ttft_s - (recording.given_s[0] - recording.started_s)) * 1e3
    if len(recording.given_s) != len(answer.arrivals_s):
        return ttft_ms, ()
    pairs = zip(recording.given_s[1:], answer.arrivals_s[1:], strict=True)
    return ttft_ms, tuple((arrived_s - given_s) * 1e3 for given_s, arrived_s in pairs)


async def measure_live_cost(generator: Generator, num_tokens: int, repeats: int, show: Show) -> Cost:
    """From answers of an agent: what each took before and behind the gateway. Raises `CliError`."""
    recorder = RecordingGenerator(generator)
    body = {**_QUESTION, **exactly(num_tokens)}
    ttft_ms: list[float] = []
    token_ms: list[float] = []
    async with hosted_gateway(recorder) as url, connected(url) as client:
        await client.stream(body)  # the connection and the tokenizer are there from now on
        for number in range(repeats):
            show(f"Answer {number + 1} of {repeats} through the gateway")
            answer = await client.stream(body)
            added = added_in_an_answer(recorder.take(answer.answer_id), answer)
            ttft_ms.append(added[0])
            token_ms += added[1]
    if len(token_ms) < 2:
        raise CliError("The answers could not be told apart token by token: ask for more with --tokens.")
    return Cost(Spread.of(token_ms), Spread.of(ttft_ms))


def _other_threads_s() -> float:
    """Seconds of CPU that this process took outside the calling thread."""
    return time.process_time() - time.thread_time()


async def measure_pure_cost(
    generator: Generator, num_tokens: int, repeats: int, show: Show, clock: Clock = _other_threads_s
) -> Cost:
    """From a generator that takes no time: the gateway's CPU time less the generator's own.

    The gateway has a thread to itself, so the client is not counted. Nothing is waited for, so CPU time is
    the time on an idle machine. The first token is that of an answer with no other, as the work on later
    ones would be counted with it. Raises `CliError`.
    """
    ttft_ms: list[float] = []
    token_ms: list[float] = []
    short, long = ({**_QUESTION, **exactly(num)} for num in (1, num_tokens))
    async with _gateway_in_a_thread(generator) as url, connected(url, clock=clock) as client:
        await client.stream(short)
        for number in range(repeats):
            show(f"Round {number + 1} of {repeats}")
            answer = await client.stream(short)
            ttft_ms.append((answer.ttft_s - await _alone_s(generator, 1)) * 1e3)
            answer = await client.stream(long)
            token_ms.append((answer.total_s - await _alone_s(generator, num_tokens)) * 1e3 / num_tokens)
    return Cost(Spread.of(token_ms), Spread.of(ttft_ms))


async def _alone_s(generator: Generator, num_tokens: int) -> float:
    """Seconds of CPU that the generator takes for itself."""
    sampling = Sampling(num_tokens, ignore_eos=True)
    request = GenerationRequest(f"bench-{uuid.uuid4().hex}", (1,), sampling, Route.COLLABORATIVE)
    started_s = time.process_time()
    async for _ in generator.generate(request):
        pass
    return time.process_time() - started_s


def instant_generator(num_tokens: int) -> FakeGenerator:
    """Gives `num_tokens` tokens, one a chunk, without a delay."""
    bundle = fake_tokenizer_bundle([_TEXT])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    token_ids = tokenizer.encode(_TEXT).ids
    target = TargetInfo("instant", 2 * num_tokens + 512, tokenizer.get_vocab_size())
    return FakeGenerator(target, bundle, Script(tuple((token_ids * num_tokens)[:num_tokens])))


@asynccontextmanager
async def _gateway_in_a_thread(generator: Generator) -> AsyncIterator[str]:
    """`hosted_gateway` in a thread of its own, so that its CPU time can be told apart."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    url: asyncio.Future[str] = loop.create_future()

    async def serve() -> None:
        async with hosted_gateway(generator) as base_url:
            loop.call_soon_threadsafe(url.set_result, base_url)
            await asyncio.to_thread(left.wait)

    serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    try:
        first: set[asyncio.Future[Any]] = {url, serving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # raises what kept it from starting
        yield await url
    finally:
        left.set()
        await serving
