"""`pipesd bench gpu`: settles on a CUDA device what CPUs cannot.

Its parts: vLLM's noise against ours; which steps run as FULL CUDA graphs; a session's step under async
scheduling, alone and beside plain traffic; how often two tokens are nearly tied; plain traffic against stock
vLLM. All but the first have a server that is started here, or one that runs.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.gpu.noise import noise_agreement
from benchmarks.harness.clients import Client, connected, exactly
from benchmarks.harness.options import Flags, JsonFile, names_in
from benchmarks.harness.prompts import HUMANEVAL, load_prompts
from benchmarks.harness.server import RunningServer, running_server
from benchmarks.harness.session import next_commit, opened, welcome
from benchmarks.reports.records import write_json
from benchmarks.speed.load import Plan, contestants_of, describe, load_json, run_load
from benchmarks.speed.overhead import Round, measured_rounds, own_text
from edge_agent.agent import cloud_connector
from edge_agent.verifier.transport import Transport
from openai_gateway.cli.console import live_status
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Draft, Mode, Open, Sampling

__all__ = ["gpu", "graph_counts", "graph_lines", "near_ties", "ragged_rounds"]

PARTS: Final = ("noise", "graphs", "session", "ties", "load")
_NUM_ROWS: Final = 64
_NUM_TOKENS: Final = 151_936
_LOG_INTERVAL_S: Final = 11.0
"""vLLM writes its counts every ten seconds."""
_GRAPH_ROW: Final = re.compile(r"\| *(\d+) *\| *(\d+) *\| *\d+ *\| *(\w+) *\| *(\d+) *\|")
_LENGTHS: Final = (1, 2, 3, 5, 8, 13)
"""Drafts of the sessions of a ragged step."""
_GAPS_NATS: Final = (1e-4, 5e-4, 1e-2, 0.125, 0.25)
_PLANS: Final = tuple(Plan(clients, 2, 128, parked) for parked in (0, 200) for clients in (1, 4, 16))

Graphs = Counter[tuple[int, int, str]]
"""Steps by tokens, tokens after padding, and mode (FULL, PIECEWISE, NONE)."""
Show = Callable[[str], None]


def gpu(
    flags: Flags,
    parts: Annotated[str, typer.Option("--parts", help="Which of its parts.")] = ",".join(PARTS),
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Verify rounds, and steps of a kind.")] = 200,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds of each server, of `load`.")] = 5,
    device: Annotated[str, typer.Option("--device", help="Where vLLM's noise is computed.")] = "cuda",
    json_file: JsonFile = None,
) -> None:
    """Settle on a CUDA device: noise, FULL graphs, a session's step, near ties, plain traffic."""
    chosen = names_in(parts, "--parts", PARTS)
    out, report = Console(highlight=False, soft_wrap=True), dict[str, Any]()
    if "noise" in chosen:
        _check_device(device)
        for fp64 in (False, True):
            found = noise_agreement(1, _NUM_ROWS, _NUM_TOKENS, fp64=fp64, device=device)
            report["noise_fp64" if fp64 else "noise_fp32"] = found._asdict()
            out.print(
                f"noise, {'fp64' if fp64 else 'fp32'}, on {device}: {found.max_ulp} ulp from NumPy's, "
                f"{found.share_equal:.4%} equal; {found.flips} of {found.num_rows} winners are others"
            )
    if set(chosen) - {"noise"}:
        with running_server(flags, ("--cudagraph-metrics",)) as server:
            _with_server(server, chosen, rounds, repeats, out, report)
    if json_file is not None:
        write_json(json_file, report)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CliError("There is no CUDA device here: --parts leaves out what needs one.", exit_code=2)


def _with_server(
    server: RunningServer,
    chosen: Sequence[str],
    rounds: int,
    repeats: int,
    out: Console,
    report: dict[str, Any],
) -> None:
    run = {"graphs": _graphs, "session": _session, "ties": _ties}
    with live_status() as show:
        for part in filter(run.__contains__, chosen):
            lines, figures = asyncio.run(run[part](server, rounds, show))
            report[part] = figures
            out.print(*lines, sep="\n")
    if "load" in chosen:
        with contestants_of(server, with_stock=True) as contestants, live_status() as show:
            found = asyncio.run(run_load(contestants, _PLANS, repeats, show))
        report |= load_json(found)
        for plan, of_plan in found.items():
            out.print(*describe(plan, of_plan), sep="\n")


Found = tuple[list[str], Any]


async def _graphs(server: RunningServer, rounds: int, show: Show) -> Found:
    """Which graphs plain steps took, and steps of sessions with drafts of different lengths."""
    if server.process is None:
        raise CliError("The graphs are read from the server's log: leave out --cloud.", exit_code=2)
    log = server.process.log_path
    plain = await graph_counts(log, lambda: _plain(server, 4, rounds, show))
    show("Ragged steps")
    connector = cloud_connector(server.settings)

    async def ragged() -> None:
        async with AsyncExitStack() as stack:
            transports = [await stack.enter_async_context(opened(connector)) for _ in _LENGTHS]
            await asyncio.gather(*map(ragged_rounds, transports, _LENGTHS, [rounds] * len(_LENGTHS)))

    sessions = await graph_counts(log, ragged)
    lines = [*graph_lines("plain steps", plain), *graph_lines("ragged steps", sessions)]
    return lines, {"plain": _by_mode(plain), "ragged": _by_mode(sessions)}


async def _plain(server: RunningServer, num_clients: int, num_tokens: int, show: Show) -> None:
    show(f"Plain traffic of {num_clients} clients")
    settings = server.settings
    async with connected(settings.cloud_url, settings.cloud_key, shared=num_clients) as client:
        body = {"prompt": list(range(100, 132)), **exactly(num_tokens)}
        await client.model()
        await asyncio.gather(*(client.stream(body) for _ in range(num_clients)))


async def ragged_rounds(transport: Transport, num_drafts: int, num_rounds: int) -> None:
    """A session whose frames have `num_drafts` tokens each, one at a time. Raises `CloudError`."""
    greeting = await welcome(transport)
    prompt, each = list(range(100, 132)), num_drafts + 1
    num_rounds = min(num_rounds, (greeting.max_model_len - len(prompt) - 2) // each)
    sampling = Sampling(max_tokens=num_rounds * each + 1, ignore_eos=True)
    await transport.send(Open(1, prompt, sampling, Mode.OFFLOAD))
    commit = await next_commit(transport)
    for number in range(num_rounds):
        base = commit.base + len(commit.tokens)
        drafts = list(range(100, 100 + num_drafts))
        await transport.send(Draft(1, 1 + number * num_drafts, base, 0, drafts))
        commit = await next_commit(transport)


async def graph_counts(
    log: Path, work: Callable[[], Awaitable[None]], sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
) -> Graphs:
    """What vLLM writes to `log` of the steps of `work`; those before it are written first."""
    await sleep(_LOG_INTERVAL_S)
    start = len(await asyncio.to_thread(log.read_bytes))
    await work()
    await sleep(_LOG_INTERVAL_S)
    written = (await asyncio.to_thread(log.read_bytes))[start:].decode(errors="replace")
    counts: Graphs = Counter()
    for tokens, padded, mode, number in _GRAPH_ROW.findall(written):
        counts[int(tokens), int(padded), mode] += int(number)
    return counts


def _by_mode(counts: Graphs) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_, _, mode), number in counts.items():
        found[mode] += number
    return dict(found)


def graph_lines(title: str, counts: Graphs) -> list[str]:
    """How many steps by mode, then the most frequent sizes."""
    if not counts:
        return [f"{title}: the server's log has no counts (without CUDA graphs it writes none)"]
    modes = ", ".join(f"{mode} {number}" for mode, number in _by_mode(counts).items())
    sizes = [
        f"{n} x {tokens} tokens as {padded}, {mode}" for (tokens, padded, mode), n in counts.most_common(5)
    ]
    return [f"{title} by graph: {modes}", f"  most frequent: {'; '.join(sizes)}"]


async def _session(server: RunningServer, rounds: int, show: Show) -> Found:
    """Verify rounds of one session, alone and beside four clients."""
    connector = cloud_connector(server.settings)
    found: dict[str, list[Round]] = {}
    text = await own_text(connector)
    for title, num_clients in (("alone", 0), ("beside 4 clients", 4)):
        show(f"A session's steps, {title}")
        traffic = asyncio.create_task(_endless(server, num_clients)) if num_clients else None
        try:
            async with opened(connector) as transport:
                found[title] = [each async for each in measured_rounds(transport, rounds, text)]
        finally:
            if traffic is not None:
                traffic.cancel()
                await asyncio.gather(traffic, return_exceptions=True)
    return [_round_line(title, several) for title, several in found.items()], {
        title: [each._asdict() for each in several] for title, several in found.items()
    }


async def _endless(server: RunningServer, num_clients: int) -> None:
    while True:
        await _plain(server, num_clients, 128, lambda _: None)


def _round_line(title: str, rounds: Sequence[Round]) -> str:
    def shown(values: Sequence[float]) -> str:
        return f"{median(values):.2f} ms (p90 {quantiles(values, n=10, method='inclusive')[-1]:.2f})"

    return (
        f"a session's verify round, {title}: {shown([r.wall_ms for r in rounds])}; engine step "
        f"{shown([r.step_ms for r in rounds])}; above it {shown([r.added_ms for r in rounds])}"
    )


async def _ties(server: RunningServer, rounds: int, show: Show) -> Found:
    """How often the two likeliest tokens are so near that rounding may turn them round."""
    settings = server.settings
    show("Near ties")
    async with connected(settings.cloud_url, settings.cloud_key) as client:
        shares, num_positions = await near_ties(client, [p.text for p in load_prompts(HUMANEVAL)], rounds)
    lines = [f"near ties in {num_positions} greedy positions:"]
    lines += [f"  within {gap:g} nats: {share:.3%}" for gap, share in shares.items()]
    return lines, {"num_positions": num_positions, "shares": {f"{gap:g}": s for gap, s in shares.items()}}


async def near_ties(client: Client, texts: Sequence[str], num_tokens: int) -> tuple[dict[float, float], int]:
    """The share of positions with a gap below each of `_GAPS_NATS`, and their number. Raises `CliError`."""
    gaps: list[float] = []
    for text in texts[:20]:
        body = {**exactly(min(num_tokens, 256)), "logprobs": 2}
        _, choice = await client.complete(text, body)
        for top in choice["logprobs"]["top_logprobs"]:
            best = sorted(top.values(), reverse=True)
            gaps += [best[0] - best[1]] if len(best) > 1 else []
    return {gap: sum(each < gap for each in gaps) / len(gaps) for gap in _GAPS_NATS}, len(gaps)
