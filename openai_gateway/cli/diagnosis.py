"""Measures draft, link and server, and says what mode `auto` will do with them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from tokenizers import Tokenizer

from edge_agent.api import GenerationRequest, GenerationStats, Generator, Route, Sampling, SessionMode
from edge_agent.control import (
    HIGHEST_ACCEPTANCE,
    Arm,
    ArmCost,
    EnvironmentSnapshot,
    cheapest,
    predicted_overlap,
    predicted_wait,
)
from edge_agent.errors import CloudMisbehaved, CloudRefused
from openai_gateway.http import read_events

__all__ = ["NUM_TOKENS", "UPLOAD_SIZES", "Figures", "Probe", "Verdict", "diagnose"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. Times in ms, rates in Mbit/s."""

    plain_ms: float
    """A token of the server's own stream, without drafts."""
    step_ms: float
    """One target pass that verifies drafts."""
    rtt_ms: float
    draft_ms: float | None = None
    """One drafted token; None without a draft model."""
    acceptance: float | None = None
    """Share of verified drafts that were kept, in [0, 1]; None: there were none."""
    auto_ms: float | None = None
    """A token in the mode `auto`, after it has had time to choose."""
    auto_passes: float | None = None
    """Target passes a token of that."""
    uplink_mbit_s: float | None = None
    downlink_mbit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to expect."""

    expected: Mapping[Arm, ArmCost]
    """Of streaming and, with a draft model, of what `auto` chooses from beside it."""
    arm: Arm
    """What `auto` will choose on texts like the measured one."""
    helps: bool
    """Whether that saves time or passes."""
    reason: str


def diagnose(figures: Figures, max_ahead: int) -> Verdict:
    """The verdict on `figures`. `max_ahead`: most drafts beyond the committed tokens."""
    streaming = {Arm.STREAM: ArmCost(figures.plain_ms, 1.0)}
    if figures.draft_ms is None or figures.acceptance is None:
        reason = "without drafts of a model only what is looked up in the text saves passes"
        return Verdict(streaming, Arm.STREAM, False, reason)
    expected = _expected(figures, figures.draft_ms, figures.acceptance, max_ahead)
    arm = cheapest(expected)
    reason = _why_not(figures, max_ahead) if arm is Arm.STREAM else _why(expected[arm], figures)
    return Verdict(expected, arm, arm is not Arm.STREAM, reason)


def _expected(figures: Figures, draft_ms: float, acceptance: float, max_ahead: int) -> dict[Arm, ArmCost]:
    costs = figures.plain_ms, figures.rtt_ms, draft_ms, min(acceptance, HIGHEST_ACCEPTANCE)
    wait, _ = predicted_wait(*costs, max_ahead)
    return {
        Arm.STREAM: ArmCost(figures.plain_ms, 1.0),
        Arm.OVERLAP: predicted_overlap(*costs),
        Arm.WAIT: wait,
    }


def _why(cost: ArmCost, figures: Figures) -> str:
    return (
        f"a token will take {cost.ms:.1f} ms and {cost.passes:.2f} target passes instead of the server's own "
        f"{figures.plain_ms:.1f} ms and 1"
    )


def _why_not(figures: Figures, max_ahead: int) -> str:
    """Names the figure that, made ideal, would help most."""
    assert figures.draft_ms is not None
    assert figures.acceptance is not None
    causes = {
        f"drafting a token takes {figures.draft_ms:.1f} ms; try a smaller draft or more --draft-threads": (
            figures,
            0.0,
            figures.acceptance,
        ),
        f"the round trip of {figures.rtt_ms:.1f} ms outweighs what a pass commits; try a nearer server": (
            replace(figures, rtt_ms=0.0),
            figures.draft_ms,
            figures.acceptance,
        ),
        f"only {figures.acceptance:.0%} of the drafts are kept; try a draft closer to the target": (
            figures,
            figures.draft_ms,
            1.0,
        ),
    }

    def best_ms(text: str) -> float:
        expected = _expected(*causes[text], max_ahead)
        return min(expected[Arm.OVERLAP].ms, expected[Arm.WAIT].ms)

    return (
        f"a draft model saves nothing here (what is looked up in the text still does), because "
        f"{min(causes, key=best_ms)}"
    )


NUM_TOKENS: Final = 32
UPLOAD_SIZES: Final = (1 << 20, 4 << 20, 16 << 20)
"""Bytes of the large request; a larger one is sent only if the smaller was too quick to be measured."""
_NUM_AUTO: Final = 96
"""Tokens in the mode `auto`; the second half is timed."""
_TRIES: Final = 3
_LONG_S: Final = 0.25
_COMPLETIONS: Final = "/v1/completions"
_PROMPT: Final = "A short story about a lighthouse keeper and the sea:\n\nOnce upon a time"


@dataclass(frozen=True)
class Probe:
    """Measures through `agent`. `link` gives the monitor's estimates; `clock` is in seconds."""

    agent: Generator
    link: Callable[[], EnvironmentSnapshot]
    clock: Callable[[], float] = time.monotonic

    async def measure(self) -> Figures:
        """All figures. Raises `EdgeError` with what went wrong."""
        prompt = await self._prompt()
        target = await self.agent.target()
        draft = await self._generate("draft", prompt, Route.LOCAL) if target.has_draft else None
        plain_ms = await self._plain_ms(target.model, prompt)
        together = await self._generate("verify", prompt, Route.COLLABORATIVE)
        uplink = await self._uplink_mbit_s(target.model)
        link = self.link()
        if together.route is not Route.COLLABORATIVE:
            raise CloudMisbehaved("the verifier was lost during the measurement; run it again")
        if link.step_s is None or link.rtt_s is None:
            raise CloudMisbehaved("the verifier reported no step times; update it")
        auto_ms, auto_passes = await self._auto(prompt)
        return Figures(
            draft_ms=None if draft is None else _ms_per_token(draft),
            plain_ms=plain_ms,
            step_ms=link.step_s * 1e3,
            rtt_ms=link.rtt_s * 1e3,
            acceptance=together.acceptance_rate,
            auto_ms=auto_ms,
            auto_passes=auto_passes,
            uplink_mbit_s=uplink,
        )

    async def _auto(self, prompt: tuple[int, ...]) -> tuple[float | None, float | None]:
        """ms and target passes a token of a longer answer in the mode `auto`, its second half."""
        sampling = Sampling(_NUM_AUTO, ignore_eos=True)
        request = GenerationRequest("doctor-auto", prompt, sampling, Route.COLLABORATIVE, SessionMode.AUTO)
        half: tuple[float, int, int] | None = None
        now_s, num_tokens, num_passes = self.clock(), 0, 0
        async for chunk in self.agent.generate(request):
            now_s, num_passes = self.clock(), chunk.stats.target_passes
            num_tokens += len(chunk.token_ids)
            if half is None and num_tokens >= _NUM_AUTO // 2:
                half = now_s, num_tokens, num_passes
        if half is None or num_tokens == half[1]:
            return None, None
        rest = num_tokens - half[1]
        return (now_s - half[0]) * 1e3 / rest, (num_passes - half[2]) / rest

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
