"""What HTTP and gateway add to a generation: to the time to its first token, and to each token."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

from benchmarks.gateway_client import ChatTask, GatewayClient, StreamedChat, gateway_client
from benchmarks.gateway_host import gateway_in_a_thread, hosted_gateway
from benchmarks.harness.recorder import Recording, RecordingGenerator
from edge_agent.generation import GenerationRequest, Generator, Route, SamplingSettings
from openai_gateway.cli.errors import CliError

__all__ = [
    "MAX_TOKEN_MS",
    "MAX_TTFT_MS",
    "Cost",
    "Spread",
    "added_in_an_answer",
    "measure_live_cost",
    "measure_pure_cost",
    "spread",
]

MAX_TOKEN_MS: Final = 0.3
MAX_TTFT_MS: Final = 5.0
"""What the gateway may add, medians."""

QUESTION: Final = "Tell me about the history of bread, in as many words as you like, and leave nothing out."
Show = Callable[[str], None]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of `num` samples."""

    median: float
    p90: float
    num: int


@dataclass(frozen=True, slots=True)
class Cost:
    """ms that HTTP and gateway add."""

    token_ms: Spread
    ttft_ms: Spread

    @property
    def is_within_limits(self) -> bool:
        return self.token_ms.median < MAX_TOKEN_MS and self.ttft_ms.median < MAX_TTFT_MS


def spread(samples: Sequence[float]) -> Spread:
    """Of at least two samples."""
    return Spread(median(samples), quantiles(samples, n=10, method="inclusive")[-1], len(samples))


def added_in_an_answer(recording: Recording, answer: StreamedChat) -> tuple[float, tuple[float, ...]]:
    """ms added to the time to the first token, and to the way of each later piece of text.

    `recording` and `answer` are the same generation before and behind the gateway, on one clock. Of the
    pieces none are given if the gateway joined chunks, so that they cannot be told apart.
    """
    generated_s = recording.given_s[0] - recording.started_s
    ttft_ms = (answer.arrivals_s[0] - answer.started_s - generated_s) * 1e3
    if len(recording.given_s) != len(answer.arrivals_s):
        return ttft_ms, ()
    pairs = zip(recording.given_s[1:], answer.arrivals_s[1:], strict=True)
    return ttft_ms, tuple((arrived_s - given_s) * 1e3 for given_s, arrived_s in pairs)


async def measure_live_cost(
    generator: Generator, num_tokens: int, repeats: int, show: Show, clock: Clock = time.perf_counter
) -> Cost:
    """From answers of an agent: what each took before and behind the gateway. Raises `CliError`."""
    recorder = RecordingGenerator(generator, clock)
    ttft_ms: list[float] = []
    token_ms: list[float] = []
    task = ChatTask((await recorder.target()).model, QUESTION, num_tokens)
    async with hosted_gateway(recorder) as url, gateway_client(_root(url), clock=clock) as client:
        await _answer(client, task)  # the connection and the tokenizer are there from now on
        for number in range(repeats):
            show(f"Answer {number + 1} of {repeats} through the gateway")
            answer = await _answer(client, task)
            added = added_in_an_answer(recorder.take(answer.answer_id), answer)
            ttft_ms.append(added[0])
            token_ms += added[1]
    if len(token_ms) < 2:
        raise CliError("The answers could not be told apart token by token: ask for more with --tokens.")
    return Cost(spread(token_ms), spread(ttft_ms))


def other_threads_s() -> float:
    """Seconds of CPU that this process took outside the calling thread."""
    return time.process_time() - time.thread_time()


async def measure_pure_cost(
    generator: Generator, num_tokens: int, repeats: int, show: Show, clock: Clock = other_threads_s
) -> Cost:
    """From a generator that takes no time: the gateway's CPU time less the generator's own.

    The gateway has a thread to itself, so the client is not counted. Nothing is waited for, so CPU time is
    the time on an idle machine. The first token is that of an answer with no other, as the work on later
    ones would be counted with it. Raises `CliError`.
    """
    ttft_ms: list[float] = []
    token_ms: list[float] = []
    model = (await generator.target()).model
    short, long = ChatTask(model, QUESTION, 1), ChatTask(model, QUESTION, num_tokens)
    async with gateway_in_a_thread(generator) as url, gateway_client(_root(url), clock=clock) as client:
        await _answer(client, short)
        for number in range(repeats):
            show(f"Round {number + 1} of {repeats}")
            answer = await _answer(client, short)
            alone_s = await _in_process(generator, 1, time.process_time)
            ttft_ms.append((answer.arrivals_s[0] - answer.started_s - alone_s) * 1e3)
            answer = await _answer(client, long)
            alone_s = await _in_process(generator, num_tokens, time.process_time)
            token_ms.append((answer.ended_s - answer.started_s - alone_s) * 1e3 / num_tokens)
    return Cost(spread(token_ms), spread(ttft_ms))


async def _in_process(generator: Generator, num_tokens: int, clock: Clock) -> float:
    """Seconds that the generator takes for itself."""
    sampling = SamplingSettings(num_tokens, ignore_eos=True)
    request = GenerationRequest(f"bench-{uuid.uuid4().hex}", (1,), sampling, Route.COLLABORATIVE)
    started_s = clock()
    async for _ in generator.generate(request):
        pass
    return clock() - started_s


async def _answer(client: GatewayClient, task: ChatTask) -> StreamedChat:
    answer = await client.chat(task)
    if answer.error is not None or not answer.arrivals_s:
        raise CliError(f"An answer through the gateway failed: {answer.error or 'it has no text'}")
    return answer


def _root(base_url: str) -> str:
    return base_url.removesuffix("/v1")
