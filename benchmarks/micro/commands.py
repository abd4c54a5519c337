"""`pipesd bench micro`: costs of single parts, measured without a server."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from benchmarks.harness.options import numbers_in

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Costs of single parts: decisions, picks, lookup, the tuner; acceptance."
)


@app.command()
def control() -> None:
    """CPU of the control plane a drafted token: batch plan, trigger, monitor."""
    from benchmarks.micro.parts import GAMMA_S, PLAN_TOKENS, control_us

    plans, policies = control_us()
    print(f"plan_batches(N={PLAN_TOKENS}), us:")
    for name, us in plans.items():
        print(f"  {name:36} {us:7.1f}")
    print("DP + trigger + monitor, us a drafted token (share of gamma):")
    for name, us in policies.items():
        print(f"  {name:36} {us:7.1f}  ({us / 1e6 / GAMMA_S:.3%} of {GAMMA_S * 1e3:g} ms)")


@app.command()
def drafting() -> None:
    """CPU of picking a draft token under request parameters, against the plain argmax."""
    from benchmarks.micro.parts import NUM_TOKENS, pick_ms

    print(f"picking one of {NUM_TOKENS} tokens, ms of CPU (more than greedy):")
    found = pick_ms()
    for name, ms in found.items():
        print(f"  {name:40} {ms:6.3f}  (+{ms - found['greedy']:.3f})")


@app.command()
def lookup(
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="N,M", help="Lengths in tokens.")
    ] = "1000,10000,100000",
) -> None:
    """CPU of drafting by lookup, on texts half of which are copied."""
    from benchmarks.micro.parts import lookup_us

    print("prompt               us a token: read  draft and follow")
    for name, (read_us, draft_us) in lookup_us(numbers_in(prompts, "--prompts")).items():
        print(f"{name:26} {read_us:10.2f} {draft_us:17.1f}")


@app.command()
def acceptance(
    positions: Annotated[int, typer.Option("--positions", min=1, help="Compared positions.")] = 2000,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Generated tokens a text.")] = 100,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """How often coupled drafts are accepted, beside the most that any method could reach (needs PyTorch)."""
    from benchmarks.micro.acceptance import acceptance_lines

    for line in acceptance_lines(positions, tokens, seed):
        print(line)


@app.command()
def tuner() -> None:
    """The autotuner: time of a suggestion, CPU of a search, time inside `observe` (needs BoTorch)."""
    from benchmarks.micro.parts import tuner_lines

    print("\n".join(tuner_lines()))


@app.command()
def hooks(
    parked: Annotated[str, typer.Option("--parked", help="Numbers of parked sessions.")] = "10,1000,4000",
    steps: Annotated[int, typer.Option("--steps", min=1, max=120, help="Measured steps.")] = 100,
) -> None:
    """The plugin's scheduler hooks a step, by parked sessions, on vLLM's real scheduler (needs vLLM)."""
    from benchmarks.micro.hooks import NUM_ACTIVE, hook_costs

    print(f"a step of {NUM_ACTIVE} sessions with drafts and {NUM_ACTIVE} plain requests, medians in us:")
    for cost in hook_costs(tuple(numbers_in(parked, "--parked", 0)), steps):
        print(
            f"  {cost.num_parked:5} parked: hooks {cost.hooks_us:7.1f}, whole scheduling {cost.step_us:8.1f}"
        )


@app.command(name="front-end")
def front_end(
    streams: Annotated[str, typer.Option("--streams", help="Numbers of answers at once.")] = "1,32,100",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Tokens an answer.")] = 128,
) -> None:
    """CPU of vLLM's API server a token, stock streaming and sessions, and bytes down (needs vLLM)."""
    from benchmarks.micro.front_end import front_end_costs

    print("answers  kind      CPU, us a token  bytes down a token  deflated")
    for cost in front_end_costs(tuple(numbers_in(streams, "--streams")), tokens):
        deflated = "" if cost.deflated is None else f"{cost.deflated:10.1f}"
        print(f"{cost.num_streams:7}  {cost.kind:8} {cost.cpu_us:16.0f} {cost.bytes_down:19.1f}{deflated}")


@app.command()
def page(
    messages: Annotated[str, typer.Option("--messages", help="Messages already in the chat.")] = "0,200",
    tokens: Annotated[
        int, typer.Option("--tokens", min=8, help="Tokens of the answer and each message.")
    ] = 2000,
    rate: Annotated[float, typer.Option("--rate", min=1.0, help="Tokens a second.")] = 60.0,
    text: Annotated[
        str, typer.Option("--text", help="mixed; or, as one block: code, list, table, prose.")
    ] = "mixed",
) -> None:
    """The page while an answer comes in, in ms: CPU, frames, tasks over 50 ms (needs Chromium)."""
    from benchmarks.micro.page import HEAD, page_costs

    numbers = tuple(numbers_in(messages, "--messages", 0))

    async def measure() -> None:
        async for cost in page_costs(numbers, tokens, rate, text):
            print(cost, flush=True)

    print(HEAD)
    asyncio.run(measure())
