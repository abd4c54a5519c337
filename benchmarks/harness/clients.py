"""Clients of OpenAI's API for both ends, and one streamed answer on the stopwatch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import openai

from benchmarks.figures import Sample
from edge_agent.generation import SamplingSettings
from openai_gateway.cli.errors import CliError

__all__ = [
    "GREEDY",
    "Clock",
    "TimedAnswer",
    "connected",
    "connection_open",
    "sampling_body",
    "stream_chat",
    "stream_completion",
    "translated",
]

Clock = Callable[[], float]
ShowText = Callable[[str], None]

# The server applies the model's own generation config, the gateway OpenAI's defaults: say it to both.
GREEDY: Final = {"repetition_penalty": 1.0}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_KEY_NOT_NEEDED: Final = "unused"


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """A streamed answer. Times in seconds from sending the request; `total_s` up to the last token."""

    answer_id: str
    text: str
    num_tokens: int
    first_text_s: float
    total_s: float
    arrivals_s: tuple[float, ...] = ()
    """Of each piece of text."""

    def sample(self) -> Sample:
        """Its TPT and TTFT as the client saw them. Raises `CliError` for an answer without tokens."""
        if not self.num_tokens:
            raise CliError("An answer came without a token: ask something else.")
        return Sample(self.total_s * 1e3 / self.num_tokens, self.first_text_s * 1e3)


def sampling_body(sampling: SamplingSettings) -> dict[str, Any]:
    """All that a body says about picking tokens, whoever it is sent to: nobody's defaults count."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "ignore_eos": sampling.ignore_eos,
    }


@asynccontextmanager
async def connected(base_url: str, api_key: str | None) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client that never repeats a request, because that would be measured along."""
    local = urlsplit(base_url).hostname in _LOOPBACK  # a proxy is no way to our own machine
    async with openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or _KEY_NOT_NEEDED,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not local),
    ) as client:
        yield client


async def connection_open(client: openai.AsyncOpenAI) -> None:
    """Let the client have a connection to its server, as a session has one. Raises `CliError`."""
    with translated(client):
        await client.models.list()


async def stream_completion(
    client: openai.AsyncOpenAI,
    model: str,
    prompt_token_ids: Sequence[int],
    num_tokens: int,
    clock: Clock = time.perf_counter,
) -> TimedAnswer:
    """Continue a prompt greedily by exactly `num_tokens` tokens. Raises `CliError`."""
    with translated(client):
        started_s = clock()
        stream = await client.completions.create(
            model=model,
            prompt=list(prompt_token_ids),
            max_tokens=num_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={**GREEDY, "ignore_eos": True},
        )
        async with stream:
            return await _read(stream, lambda choice: choice.text, started_s, clock, lambda _: None)


async def stream_chat(
    client: openai.AsyncOpenAI,
    model: str,
    question: str,
    max_tokens: int,
    clock: Clock = time.perf_counter,
    show: ShowText = lambda _: None,
) -> TimedAnswer:
    """Ask one question, greedily; `show` gets the text piece by piece. Raises `CliError`."""
    with translated(client):
        started_s = clock()
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=GREEDY,
        )
        async with stream:
            return await _read(stream, lambda choice: choice.delta.content, started_s, clock, show)


async def _read(
    stream: Any, text_of: Callable[[Any], str | None], started_s: float, clock: Clock, show: ShowText
) -> TimedAnswer:
    answer_id, num_tokens = "", 0
    pieces: list[str] = []
    arrivals_s: list[float] = []
    first_s = last_s = started_s
    async for chunk in stream:
        answer_id = chunk.id
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
        if not chunk.choices:
            continue
        last_s = clock()
        if piece := text_of(chunk.choices[0]):
            first_s = first_s if pieces else last_s
            pieces.append(piece)
            arrivals_s.append(last_s - started_s)
            show(piece)
    times_s = first_s - started_s, last_s - started_s
    return TimedAnswer(answer_id, "".join(pieces), num_tokens, *times_s, tuple(arrivals_s))


@contextmanager
def translated(client: openai.AsyncOpenAI) -> Iterator[None]:
    """Turn the client's exceptions into a `CliError` that says which end failed."""
    try:
        yield
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        message = body.get("message") or error.message
        raise CliError(f"{client.base_url} refused the request: {message}") from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise CliError(
            f"{client.base_url} does not answer ({cause}): check the server and its log."
        ) from error
    except openai.APIError as error:  # an error event in the middle of a stream
        raise CliError(f"An answer from {client.base_url} broke off: {error.message}") from error
