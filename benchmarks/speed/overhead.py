"""`pipesd bench overhead`: where the time of a verify round goes, beside plain vLLM in the same run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.plain_rounds import OwnCode, PlainApi
from benchmarks.rounds import Round, measured_rounds, measured_stream
from edge_agent.transport import Connector, Transport

__all__ = ["Overhead", "RoundCost", "describe_overhead", "measure_overhead", "overhead", "round_cost"]

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Of `num_rounds` rounds, in ms: medians, but for the 90th percentile."""

    num_rounds: int
    wall_ms: float
    step_ms: float
    queue_ms: float
    added_ms: float
    added_p90_ms: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """One repeat, or the median over several; all in ms but the number of repeats.

    A verify round crosses vLLM's front end twice, up with the drafts and down with the commit. A streamed
    token goes down only, while the engine is at the next one already; plain request and reply go both ways.
    """

    num_repeats: int
    verify: RoundCost
    stream: RoundCost
    """A session's tokens, decoded one by one; its step is also that of the plain ones."""
    plain_token_ms: float
    """From one token to the next of vLLM's own streamed answer."""
    plain_reply_ms: float
    """vLLM's own answer of one token to a prompt of one token."""
    own: OwnCode | None
    """What the plugin's own code takes of a verify round; None if the server does not tell."""

    @property
    def plain_token_added_ms(self) -> float:
        """Above the engine's step for one token."""
        return self.plain_token_ms - self.stream.step_ms

    @property
    def plain_reply_added_ms(self) -> float:
        """Above the engine's step for one token."""
        return self.plain_reply_ms - self.stream.step_ms


async def measure_overhead(
    connector: Connector, plain: PlainApi, num_rounds: int, num_repeats: int, show: Show
) -> Overhead:
    """All kinds in turn, `num_repeats` times. Raises `CloudError`, `CliError`."""
    repeats = []
    for number in range(num_repeats):
        show(f"Repeat {number + 1} of {num_repeats}: {num_rounds} verify rounds")
        repeats.append(await _measure_once(connector, plain, num_rounds))
    return overhead(repeats)


async def _measure_once(connector: Connector, plain: PlainApi, num_rounds: int) -> Overhead:
    before = await plain.own_code()
    verify = await _session(connector, lambda transport: _all(measured_rounds(transport, num_rounds)))
    after = await plain.own_code()
    stream = await _session(connector, lambda transport: _all(measured_stream(transport, num_rounds)))
    return Overhead(
        num_repeats=1,
        verify=round_cost(verify),
        stream=round_cost(stream),
        plain_token_ms=median(await plain.token_gaps_ms(num_rounds)),
        plain_reply_ms=median([await plain.reply_ms() for _ in range(num_rounds)]),
        own=None if before is None or after is None else after.a_round_since(before),
    )


async def _all(rounds: AsyncIterator[Round]) -> list[Round]:
    return [each async for each in rounds]


async def _session(
    connector: Connector, measure: Callable[[Transport], Awaitable[list[Round]]]
) -> list[Round]:
    transport = await connector.connect()
    try:
        return await measure(transport)
    finally:
        await transport.close()


def round_cost(rounds: Sequence[Round]) -> RoundCost:
    """Of at least two rounds."""
    added = [r.added_ms for r in rounds]
    return RoundCost(
        num_rounds=len(rounds),
        wall_ms=median(r.wall_ms for r in rounds),
        step_ms=median(r.step_ms for r in rounds),
        queue_ms=median(r.queue_ms for r in rounds),
        added_ms=median(added),
        added_p90_ms=quantiles(added, n=10, method="inclusive")[-1],
    )


def overhead(repeats: Sequence[Overhead]) -> Overhead:
    """Each figure's median over the repeats."""
    own = [r.own for r in repeats if r.own is not None]
    return Overhead(
        num_repeats=len(repeats),
        verify=_median_cost([r.verify for r in repeats]),
        stream=_median_cost([r.stream for r in repeats]),
        plain_token_ms=median(r.plain_token_ms for r in repeats),
        plain_reply_ms=median(r.plain_reply_ms for r in repeats),
        own=OwnCode.median(own) if own else None,
    )


def _median_cost(costs: Sequence[RoundCost]) -> RoundCost:
    fields: dict[str, Any] = {
        name: median(getattr(cost, name) for cost in costs) for name in RoundCost.__slots__
    }
    return RoundCost(**fields)


def describe_overhead(cost: Overhead) -> list[str]:
    """Lines, times in ms."""
    verify, stream = cost.verify, cost.stream
    lines = [
        f"verify round: {verify.added_ms:.2f} ms above the engine step (median of {cost.num_repeats} x "
        f"{verify.num_rounds:.0f}; p90 {verify.added_p90_ms:.2f} ms; engine step {verify.step_ms:.1f} ms; "
        f"scheduling before it {verify.queue_ms:.2f} ms)",
        f"a session's streamed token: {stream.added_ms:.2f} ms above its step ({stream.step_ms:.1f} ms)",
        f"plain vLLM, streamed token: {cost.plain_token_added_ms:.2f} ms above the same step "
        "(front end down only, while the next step runs)",
        f"plain vLLM, request and reply: {cost.plain_reply_added_ms:.2f} ms above the same step "
        "(front end up and down, as a verify round)",
        f"verify round against plain vLLM: {verify.added_ms - cost.plain_token_added_ms:+.2f} ms to a "
        f"streamed token, {verify.added_ms - cost.plain_reply_added_ms:+.2f} ms to request and reply",
    ]
    return [*lines, _describe_own(cost.own)]


def _describe_own(own: OwnCode | None) -> str:
    if own is None:
        return "the plugin's own code: not measured (the server's /metrics does not tell)"
    return (
        f"the plugin's own code: {own.total_ms:.2f} ms a verify round by the server's clocks (receive "
        f"{own.receive_ms:.2f}, schedule {own.schedule_ms:.2f}, send {own.send_ms:.2f}; aim: below 1 ms)"
    )
