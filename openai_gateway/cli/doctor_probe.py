"""What `pipesd doctor` measures: short real generations and two transfers over the real link."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, GenerationStats, Generator, Route, Sampling
from edge_agent.control.monitor import EnvironmentSnapshot
from edge_agent.errors import CloudMisbehaved, CloudRefused
from openai_gateway.cli.diagnosis import Figures
from openai_gateway.http.streaming import read_events
from pipesd_vllm.wire import Mode

__all__ = ["NUM_TOKENS", "UPLOAD_SIZES", "Probe"]

NUM_TOKENS: Final = 32
UPLOAD_SIZES: Final = (1 << 20, 4 << 20, 16 << 20)
"""Bytes of the large request; a larger one is sent only if the smaller was too quick to be told."""
_TRIES: Final = 3
_LONG_S: Final = 0.25
_COMPLETIONS: Final = "/v1/completions"
_PROMPT: Final = "A short story about a lighthouse keeper and the sea:\n\nOnce upon a time"


@dataclass(frozen=True)
class Probe:
    """Measures through `agent`. `link` gives the monitor's estimates; `clock` is in seconds.

    `patience_ms` and `max_window` are the settings that the expectation works with.
    """

    agent: Generator
    link: Callable[[], EnvironmentSnapshot]
    patience_ms: float
    max_window: int
    clock: Callable[[], float] = time.monotonic

    async def measure(self) -> Figures:
        """All figures. Raises `EdgeError` with what went wrong."""
        prompt = await self._prompt()
        model = (await self.agent.target()).model
        draft = await self._generate("draft", prompt, Route.LOCAL)
        plain_ms = await self._plain_ms(model, prompt)
        together = await self._generate("verify", prompt, Route.COLLABORATIVE)
        uplink = await self._uplink_mbit_s(model)
        link = self.link()
        if together.route is not Route.COLLABORATIVE:
            raise CloudMisbehaved("the verifier was lost while it was measured; run it again")
        if link.step_s is None or link.rtt_s is None:
            raise CloudMisbehaved("the verifier reported no times of its passes; update it")
        return Figures(
            draft_ms=_ms_per_token(draft),
            plain_ms=plain_ms,
            step_ms=link.step_s * 1e3,
            rtt_ms=link.rtt_s * 1e3,
            acceptance=together.acceptance_rate or 0.0,
            patience_ms=self.patience_ms,
            max_window=self.max_window,
            uplink_mbit_s=uplink,
        )

    async def measure_downlink(self, download: Callable[[], AsyncIterator[bytes]]) -> float | None:
        """Mbit/s of what `download` gives, from its first part to its last; None for less than two."""
        first_s = last_s = None
        num_bytes = 0
        async for part in download():
            last_s = self.clock()
            if first_s is None:
                first_s = last_s
            else:
                num_bytes += len(part)
        elapsed_s = (last_s or 0.0) - (first_s or 0.0)
        return num_bytes * 8 / elapsed_s / 1e6 if num_bytes and elapsed_s > 0 else None

    async def _prompt(self) -> tuple[int, ...]:
        bundle = await self.agent.tokenizer()
        return tuple(Tokenizer.from_str(bundle.tokenizer_json).encode(_PROMPT).ids)

    async def _generate(self, name: str, prompt: tuple[int, ...], route: Route) -> GenerationStats:
        sampling = Sampling(NUM_TOKENS, ignore_eos=True)
        mode = Mode.OFFLOAD if route is Route.COLLABORATIVE else None
        request = GenerationRequest(f"doctor-{name}", prompt, sampling, route, mode)
        stats = GenerationStats()
        async for chunk in self.agent.generate(request):
            stats = chunk.stats
        return replace(stats)

    async def _plain_ms(self, model: str, prompt: tuple[int, ...]) -> float:
        """ms a token of the server's own stream, after its first."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        answer = await self.agent.forward(_COMPLETIONS, msgspec.json.encode(body))
        try:
            if answer.status >= 400:
                raise CloudRefused("plain", f"the server's own API answered HTTP {answer.status}")
            events = read_events(answer.parts())
            times_s = [self.clock() async for data in events if data != b"[DONE]"]
        finally:
            await answer.aclose()
        if len(times_s) < 2:
            raise CloudMisbehaved("the server's own stream was too short to be timed")
        return (times_s[-1] - times_s[0]) * 1e3 / (NUM_TOKENS - 1)

    async def _uplink_mbit_s(self, model: str) -> float | None:
        """What a large request takes longer than a small one; the server refuses both before its engine.

        The first may have to open the connection and is not counted. One measurement of each would
        not do: on a fast link a busy moment outweighs the megabyte. None if even the largest does not
        stand out.
        """
        await self._refused_s(model, 1)
        size, extra_s = 0, 0.0
        for size in UPLOAD_SIZES:
            small_s = await self._least_s(model, 1)
            extra_s = await self._least_s(model, size) - small_s
            if extra_s > small_s:
                break
        return size * 8 / extra_s / 1e6 if extra_s > 0 else None

    async def _least_s(self, model: str, num_bytes: int) -> float:
        """Of a few tries; one is exact enough if it takes long."""
        least_s = await self._refused_s(model, num_bytes)
        for _ in range(_TRIES - 1):
            if least_s > _LONG_S:
                break
            least_s = min(least_s, await self._refused_s(model, num_bytes))
        return least_s

    async def _refused_s(self, model: str, num_bytes: int) -> float:
        """Seconds until the server has read and refused a request without a prompt."""
        body = msgspec.json.encode({"model": model, "max_tokens": 0, "user": "x" * num_bytes})
        started_s = self.clock()
        answer = await self.agent.forward(_COMPLETIONS, body)
        try:
            await answer.read()
        finally:
            await answer.aclose()
        return self.clock() - started_s


def _ms_per_token(stats: GenerationStats) -> float:
    """ms a token after the first."""
    if stats.first_token_s is None or stats.last_token_s is None or stats.completion_tokens < 2:
        raise CloudMisbehaved("the draft model gave too few tokens to be timed; try another with --draft")
    return (stats.last_token_s - stats.first_token_s) * 1e3 / (stats.completion_tokens - 1)
