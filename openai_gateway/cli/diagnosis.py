"""Measures draft, link and server, and derives the mode that `pipesd doctor` recommends.

Model of a round of K drafts, each accepted with probability a, in ms: draft d a token, target pass s, round
trip r (each verdict says these figures):

    tokens(K) = 1 + a + ... + a^K                            committed by one pass
    round(K)  = a^K max(K d, r + s) + (1 - a^K)(K d + r + s)  after a rejection nothing overlaps
    offload   = min over K of round(K) / tokens(K)            the server waits for every draft
    balanced  = min(offload, patience + s)                    ... but no longer than its patience
    latency   = min(offload, plain)                           ... or not at all
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, GenerationStats, Generator, Route, Sampling, SessionMode
from edge_agent.control import EnvironmentSnapshot
from edge_agent.errors import CloudMisbehaved, CloudRefused
from openai_gateway.http import read_events

__all__ = [
    "FORMULA",
    "NUM_TOKENS",
    "UPLOAD_SIZES",
    "Figures",
    "Probe",
    "Verdict",
    "diagnose",
    "expected_tpt_ms",
]

FORMULA: Final = (
    "offload = min over K of [a^K max(K d, r+s) + (1-a^K)(K d + r + s)] / (1 + a + ... + a^K); "
    "balanced = min(offload, patience + s); latency = min(offload, plain); "
    "d draft, s pass, r round trip, a acceptance"
)
_WORTHWHILE: Final = 0.95
"""A saving below 5 % does not count: the model above is not more precise than that."""
_PREFERENCE: Final = ("balanced", "offload", "latency")
"""Order of preference among equally fast modes: the bounded wait first, then the fewest passes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. Times in ms, rates in Mbit/s."""

    draft_ms: float
    """One drafted token."""
    plain_ms: float
    """A token of the server's own stream, without drafts."""
    step_ms: float
    """One target pass that verifies drafts."""
    rtt_ms: float
    acceptance: float
    """Share of verified drafts that were kept, in [0, 1]."""
    patience_ms: float = 500.0
    max_window: int = 8
    uplink_mbit_s: float | None = None
    downlink_mbit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The expected total time per token by mode, and the recommendation."""

    expected_tpt_ms: Mapping[str, float]
    """`plain` and the three modes."""
    window: int
    """The best K for `offload`."""
    mode: str
    helps: bool
    reason: str


def tokens_per_round(acceptance: float, window: int) -> float:
    """Expected tokens that one pass over `window` drafts commits, its own included."""
    return float(sum(acceptance**power for power in range(window + 1)))


def _round_ms(figures: Figures, window: int) -> float:
    drafting_ms, answer_ms = window * figures.draft_ms, figures.rtt_ms + figures.step_ms
    all_kept = figures.acceptance**window
    return all_kept * max(drafting_ms, answer_ms) + (1 - all_kept) * (drafting_ms + answer_ms)


def expected_tpt_ms(figures: Figures) -> tuple[float, int]:
    """Time per token of mode `offload` with its best window, and that window."""
    return min(
        (_round_ms(figures, window) / tokens_per_round(figures.acceptance, window), window)
        for window in range(1, figures.max_window + 1)
    )


def diagnose(figures: Figures) -> Verdict:
    """The verdict on `figures`."""
    offload_ms, window = expected_tpt_ms(figures)
    expected = {
        "plain": figures.plain_ms,
        "offload": offload_ms,
        "balanced": min(offload_ms, figures.patience_ms + figures.step_ms),
        "latency": min(offload_ms, figures.plain_ms),
    }
    helps = offload_ms < _WORTHWHILE * figures.plain_ms
    fastest_ms = min(expected[mode] for mode in _PREFERENCE)
    mode = next(mode for mode in _PREFERENCE if expected[mode] * _WORTHWHILE <= fastest_ms)
    reason = _why(figures, offload_ms, window) if helps else _why_not(figures, offload_ms)
    return Verdict(expected, window, mode, helps, reason)


def _why(figures: Figures, offload_ms: float, window: int) -> str:
    tokens = tokens_per_round(figures.acceptance, window)
    return (
        f"a pass commits {tokens:.1f} tokens with {window} drafts, so a token takes {offload_ms:.1f} ms "
        f"instead of the server's own {figures.plain_ms:.1f} ms"
    )


def _why_not(figures: Figures, offload_ms: float) -> str:
    """Names the figure that, made ideal, would help most."""
    causes = {
        f"drafting a token takes {figures.draft_ms:.1f} ms; try a smaller draft or more --draft-threads": (
            replace(figures, draft_ms=0.0)
        ),
        f"the round trip of {figures.rtt_ms:.1f} ms outweighs what a pass commits; try a nearer server": (
            replace(figures, rtt_ms=0.0)
        ),
        f"only {figures.acceptance:.0%} of the drafts are kept; try a draft closer to the target": (
            replace(figures, acceptance=1.0)
        ),
        f"a verifying pass takes {figures.step_ms:.1f} ms; the server is busy or its batches are slow": (
            replace(figures, step_ms=min(figures.step_ms, figures.plain_ms))
        ),
    }
    cause = min(causes, key=lambda text: expected_tpt_ms(causes[text])[0])
    return (
        f"speculation would not help here ({offload_ms:.1f} ms a token, the server alone "
        f"{figures.plain_ms:.1f} ms), because {cause}"
    )


NUM_TOKENS: Final = 32
UPLOAD_SIZES: Final = (1 << 20, 4 << 20, 16 << 20)
"""Bytes of the large request; a larger one is sent only if the smaller was too quick to be measured."""
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
            raise CloudMisbehaved("the verifier was lost during the measurement; run it again")
        if link.step_s is None or link.rtt_s is None:
            raise CloudMisbehaved("the verifier reported no step times; update it")
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
        """Mbit/s of the parts of `download`, from the first to the last; None for less than two."""
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
        mode = SessionMode.OFFLOAD if route is Route.COLLABORATIVE else None
        request = GenerationRequest(f"doctor-{name}", prompt, sampling, route, mode)
        stats = GenerationStats()
        async for chunk in self.agent.generate(request):
            stats = chunk.stats
        return replace(stats)

    async def _plain_ms(self, model: str, prompt: tuple[int, ...]) -> float:
        """ms per token of the server's own stream, after the first token."""
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
        """How much longer a large request takes than a small one; the server refuses both before its engine.

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
        """The best of a few tries; a long one is exact enough alone."""
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
    """ms per token after the first."""
    if stats.first_token_s is None or stats.last_token_s is None or stats.completion_tokens < 2:
        raise CloudMisbehaved("the draft model gave too few tokens to be timed; try another with --draft")
    return (stats.last_token_s - stats.first_token_s) * 1e3 / (stats.completion_tokens - 1)
