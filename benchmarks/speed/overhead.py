"""`pipesd bench overhead`: where the time of a verify round goes, beside plain vLLM; what idle sessions cost.

Speaks the session protocol over a bare connection, so that nothing of the edge agent is in the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from statistics import median, quantiles
from typing import Annotated, Any, Final, NamedTuple

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.harness.clients import Clock, connected, exactly
from benchmarks.harness.options import Flags, JsonFile
from benchmarks.harness.server import RunningServer, running_server
from benchmarks.harness.session import next_commit, opened, welcome
from benchmarks.reports.records import write_json
from edge_agent.agent import cloud_connector
from edge_agent.verifier.transport import Connector, Transport
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Cancel, Draft, Mode, Open, Sampling

__all__ = [
    "Round",
    "describe",
    "figures_of",
    "measure_idle",
    "measured_rounds",
    "measured_stream",
    "medians",
    "overhead",
    "own_code_totals",
    "own_text",
]

_PROMPT: Final = tuple(range(100, 132))
"""Any tokens will do: nothing depends on what the target answers."""
_NUM_DRAFTS: Final = 4
_TEXT_TOKENS: Final = 200
_SPARE_TOKENS: Final = 2  # the first token comes before the first round; the turn must not end in the last
_WARM_UP_ROUNDS: Final = 5
_OWN_PARTS: Final = ("receive", "schedule", "send")
NUM_IDLE_SESSIONS: Final = 4
_IDLE_WINDOW_S: Final = 10.0
_SETTLE_S: Final = 1.0

Figures = dict[str, float | None]
"""By name, in ms (`idle_` in seconds of CPU); None: not measured."""


class Round(NamedTuple):
    """From sending a draft frame to its commit, and the engine's step within, in ms.

    Of a stream: from one commit to the next.
    """

    wall_ms: float
    step_ms: float
    queue_ms: float = 0.0
    """From the drafts' arrival in the scheduler to the start of the step; outside `step_ms`."""
    num_tokens: int = 1
    """Committed: with drafts that are right, one more than were verified."""

    @property
    def added_ms(self) -> float:
        """Network, vLLM's front end and the plugin."""
        return self.wall_ms - self.step_ms


def overhead(
    flags: Flags,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Verify rounds of a repeat.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often all is measured.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Measure where the time of a verify round goes, beside plain vLLM, and what idle sessions cost."""
    with running_server(flags) as server:
        figures = asyncio.run(_run(server, rounds, repeats))
    Console(highlight=False, soft_wrap=True).print(*describe(figures, repeats, rounds), sep="\n")
    if json_file is not None:
        rounded = {name: None if value is None else round(value, 3) for name, value in figures.items()}
        write_json(json_file, {**rounded, "repeats": repeats, "rounds": rounds})


async def _run(server: RunningServer, num_rounds: int, repeats: int) -> Figures:
    """All kinds in turn, `repeats` times; then idle sessions. Raises `CloudError`, `CliError`."""
    connector = cloud_connector(server.settings)
    found = []
    with live_status() as show:
        async with connected(server.settings.cloud_url, server.settings.cloud_key) as plain:
            text = await own_text(connector)
            for number in range(repeats):
                show(f"Repeat {number + 1} of {repeats}: {num_rounds} verify rounds")
                before = own_code_totals(await plain.metrics())
                async with opened(connector) as transport:
                    verify = [each async for each in measured_rounds(transport, num_rounds, text)]
                after = own_code_totals(await plain.metrics())
                async with opened(connector) as transport:
                    stream = [each async for each in measured_stream(transport, num_rounds)]
                tokens = exactly(num_rounds + _WARM_UP_ROUNDS + 1)
                streamed = await plain.stream({"prompt": list(_PROMPT), **tokens})
                gaps = [(b - a) * 1e3 for a, b in pairwise(streamed.chunks_s[_WARM_UP_ROUNDS:])]
                if not gaps:
                    raise CliError("The server's /v1/completions streamed nothing.")
                replies = []
                for _ in range(num_rounds):
                    started_s = time.perf_counter()
                    await plain.complete(
                        _PROMPT[:1], exactly(1)
                    )  # its pass costs what one more token's costs
                    replies.append((time.perf_counter() - started_s) * 1e3)
                own = _own_a_round(before, after)
                found.append(figures_of(verify, stream, median(gaps), median(replies), own))
        return {**medians(found), **await measure_idle(connector, server.cpu_s, show)}


async def own_text(
    connector: Connector, num_tokens: int = _TEXT_TOKENS, prompt: Sequence[int] = _PROMPT
) -> list[int]:
    """What the target says greedily; `prompt` is that of the rounds, unless told. Raises `CloudError`."""
    async with opened(connector) as transport:
        room = (await welcome(transport)).max_model_len - len(prompt)
        num_tokens = min(num_tokens, room)
        sampling = Sampling(max_tokens=num_tokens, ignore_eos=True)
        await transport.send(Open(1, list(prompt), sampling, Mode.LATENCY))
        text: list[int] = []
        while len(text) < num_tokens:
            text += (await next_commit(transport)).tokens
        return text


async def measured_rounds(
    transport: Transport,
    num_rounds: int,
    text: Sequence[int],
    clock: Clock = time.perf_counter,
    *,
    num_drafts: int = _NUM_DRAFTS,
) -> AsyncIterator[Round]:
    """`num_rounds` verify rounds of `num_drafts` each, one at a time, after a warm-up.

    The drafts are `text` (`own_text`): wrong ones would soon be left out by the server's budget. Where it
    ends the next turn begins. Raises `CloudError`.
    """
    await welcome(transport)
    most = max(1, (len(text) - _SPARE_TOKENS) // (num_drafts + 1))
    num_done, turn = -_WARM_UP_ROUNDS, 0
    while num_done < num_rounds:
        turn += 1
        num_here = min(most, num_rounds - num_done)
        await transport.send(_open(turn, (num_drafts + 1) * num_here))
        commit = await next_commit(transport, turn)
        for number in range(num_here):
            base = commit.base + len(commit.tokens)
            said = base - len(_PROMPT)
            started_s = clock()
            drafts = list(text[said : said + num_drafts])
            await transport.send(Draft(turn, 1 + number * num_drafts, base, 0, drafts))
            commit = await next_commit(transport, turn)
            if num_done >= 0:
                wall_ms = (clock() - started_s) * 1e3
                yield Round(wall_ms, commit.step_ms, commit.queue_ms, len(commit.tokens))
            num_done += 1
        await transport.send(Cancel(turn))


async def measured_stream(
    transport: Transport, num_tokens: int, clock: Clock = time.perf_counter
) -> AsyncIterator[Round]:
    """`num_tokens` tokens that the target decodes and streams by itself, one a pass, after a warm-up.

    Raises `CloudError`.
    """
    await welcome(transport)
    num_all = num_tokens + _WARM_UP_ROUNDS
    sampling = Sampling(max_tokens=num_all + _SPARE_TOKENS, ignore_eos=True)
    await transport.send(Open(1, list(_PROMPT), sampling, Mode.LATENCY))
    await next_commit(transport)
    before_s = clock()
    for number in range(num_all):
        commit = await next_commit(transport)
        now_s = clock()
        if number >= _WARM_UP_ROUNDS:
            yield Round((now_s - before_s) * 1e3, commit.step_ms, commit.queue_ms)
        before_s = now_s
    await transport.send(Cancel(1))


def _open(turn: int, most_tokens: int) -> Open:
    """A turn whose rounds give no more than `most_tokens`, which is if the target agrees with all drafts."""
    sampling = Sampling(max_tokens=most_tokens + _SPARE_TOKENS, ignore_eos=True)
    return Open(turn, list(_PROMPT), sampling, Mode.OFFLOAD)


def own_code_totals(page: str) -> dict[str, float] | None:
    """From a page of metrics: ms in the plugin's own code by part, and the number of `rounds`."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "pipesd_own_seconds_sum":
                part = sample.labels["part"]
                totals[part] = totals.get(part, 0.0) + sample.value * 1e3
            elif sample.name == "pipesd_own_seconds_count" and sample.labels["part"] == "receive":
                totals["rounds"] = totals.get("rounds", 0.0) + sample.value
    return totals if {*_OWN_PARTS, "rounds"} <= totals.keys() else None


def _own_a_round(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float] | None:
    """The mean of the rounds in between; None if there was none, or if the server does not tell."""
    if before is None or after is None or after["rounds"] == before["rounds"]:
        return None
    num = after["rounds"] - before["rounds"]
    return {part: (after[part] - before[part]) / num for part in _OWN_PARTS}


async def measure_idle(
    connector: Connector,
    cpu_s: Callable[[], float | None],
    show: Callable[[str], None],
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Figures:
    """CPU seconds of the server with turns that wait for drafts which never come, and with none.

    None if its CPU time cannot be known. Raises `CloudError`.
    """

    async def used(num_sessions: int) -> float:
        await sleep(_SETTLE_S)
        show(f"CPU with {num_sessions} idle sessions, {_IDLE_WINDOW_S:.0f} s")
        before_s = cpu_s() or 0.0
        await sleep(_IDLE_WINDOW_S)
        return (cpu_s() or 0.0) - before_s

    if cpu_s() is None:
        return {"idle_without_sessions_s": None, "idle_with_sessions_s": None}
    without_s = await used(0)
    async with AsyncExitStack() as stack:
        for _ in range(NUM_IDLE_SESSIONS):
            transport = await stack.enter_async_context(opened(connector))
            await welcome(transport)
            await transport.send(_open(1, _NUM_DRAFTS + 1))
            await next_commit(transport)
        with_s = await used(NUM_IDLE_SESSIONS)
    return {"idle_without_sessions_s": without_s, "idle_with_sessions_s": with_s}


def figures_of(
    verify: Sequence[Round],
    stream: Sequence[Round],
    plain_token_ms: float,
    plain_reply_ms: float,
    own_ms: dict[str, float] | None,
) -> Figures:
    """One repeat, in ms.

    `verify`: verify rounds, which cross vLLM's front end twice, up with the drafts and down with the commit.
    `stream`: a session's tokens, decoded one by one; their step is also that of the plain ones.
    `plain_token_ms`: from one token to the next of vLLM's own streamed answer, which goes down only, while
    the engine is at the next one already. `plain_reply_ms`: its answer of one token to a prompt of one token,
    which goes both ways. `own_ms`: what the plugin's own code takes of a verify round, by part; None if the
    server does not tell.
    """
    step_ms = median(r.step_ms for r in stream)
    return {
        "verify_added_ms": median(r.added_ms for r in verify),
        "verify_added_p90_ms": quantiles([r.added_ms for r in verify], n=10, method="inclusive")[-1],
        "verify_step_ms": median(r.step_ms for r in verify),
        "verify_queue_ms": median(r.queue_ms for r in verify),
        "stream_added_ms": median(r.added_ms for r in stream),
        "stream_step_ms": step_ms,
        "plain_token_added_ms": plain_token_ms - step_ms,
        "plain_reply_added_ms": plain_reply_ms - step_ms,
        **{f"own_{part}_ms": None if own_ms is None else own_ms[part] for part in _OWN_PARTS},
    }


def medians(repeats: Sequence[Figures]) -> Figures:
    """Each figure's median over the repeats; one disturbed repeat does not move it."""
    known = {name: [v for each in repeats if (v := each[name]) is not None] for name in repeats[0]}
    return {name: median(values) if values else None for name, values in known.items()}


def describe(figures: Figures, repeats: int, num_rounds: int) -> list[str]:
    """Lines, times in ms."""
    f = {name: value or 0.0 for name, value in figures.items()}
    verify, token, reply = f["verify_added_ms"], f["plain_token_added_ms"], f["plain_reply_added_ms"]
    own = [f[f"own_{part}_ms"] for part in _OWN_PARTS]
    return [
        f"verify round: {verify:.2f} ms above the engine step (median of {repeats} x {num_rounds}; p90 "
        f"{f['verify_added_p90_ms']:.2f} ms; engine step {f['verify_step_ms']:.1f} ms; scheduling before it "
        f"{f['verify_queue_ms']:.2f} ms)",
        f"a session's streamed token: {f['stream_added_ms']:.2f} ms above its step "
        f"({f['stream_step_ms']:.1f} ms)",
        f"plain vLLM, streamed token: {token:.2f} ms above the same step "
        "(front end down only, while the next step runs)",
        f"plain vLLM, request and reply: {reply:.2f} ms above the same step "
        "(front end up and down, as a verify round)",
        f"verify round against plain vLLM: {verify - token:+.2f} ms to a streamed token, "
        f"{verify - reply:+.2f} ms to request and reply",
        "the plugin's own code: not measured (the server's /metrics does not tell)"
        if figures["own_receive_ms"] is None
        else f"the plugin's own code: {sum(own):.2f} ms a verify round by the server's clocks (receive "
        f"{own[0]:.2f}, schedule {own[1]:.2f}, send {own[2]:.2f}; aim: below 1 ms)",
        "idle sessions: not measured (needs a server started here: leave out --cloud)"
        if figures["idle_with_sessions_s"] is None
        else f"idle sessions: {f['idle_with_sessions_s']:.2f} s of CPU in {_IDLE_WINDOW_S:.0f} s with "
        f"{NUM_IDLE_SESSIONS} of them, {f['idle_without_sessions_s']:.2f} s with none",
    ]
