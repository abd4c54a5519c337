"""A real question through both halves of PipeSD on this machine, and its figures."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.harness.clients import stream_chat
from benchmarks.figures import Way, summarise
from benchmarks.harness.pair import Pair, started_pair
from benchmarks.report import table
from benchmarks.harness.server import ServerChoice, running_server
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.console import live_status

__all__ = ["demo", "present"]

QUESTION: Final = "Explain in two sentences why the sky is blue."
EMBEDDED_DRAFT: Final = {"draft": "embedded"}  # whatever the user's settings say: it fits the server
WARM_UP: Final = "Say hello."
WARM_UP_TOKENS: Final = 8


def demo(
    question: Annotated[str, typer.Argument(help="What to ask.", metavar="[QUESTION]")] = QUESTION,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=1024, help="Longest answer.")] = 160,
) -> None:
    """Start the embedded pair on this machine, ask it a question, show the figures, stop it again."""
    with running_server(ServerChoice(), EMBEDDED_DRAFT) as server:
        asyncio.run(_demo(server.settings, question, max_tokens))


async def _demo(settings: EdgeSettings, question: str, max_tokens: int) -> None:
    async with AsyncExitStack() as stack:
        with live_status() as show:
            show("Starting the edge agent")
            pair = await stack.enter_async_context(started_pair(settings))
            show("Warming up")
            for client in (pair.gateway, pair.cloud):
                await stream_chat(client, pair.target.model, WARM_UP, WARM_UP_TOKENS)
        await present(pair, question, max_tokens, Console(highlight=False, soft_wrap=True))


async def present(pair: Pair, question: str, max_tokens: int, out: Console) -> None:
    """Ask through the gateway, printing the answer as it comes, then the server alone; then the table.

    Raises `CliError`.
    """

    def show(piece: str) -> None:
        out.file.write(piece)
        out.file.flush()

    out.print(f"\n[bold]You:[/bold] {escape(question)}\n[bold]{escape(pair.target.model)}:[/bold] ", end="")
    ours = await stream_chat(pair.gateway, pair.target.model, question, max_tokens, show=show)
    out.print("\n")
    plain = await stream_chat(pair.cloud, pair.target.model, question, max_tokens)
    figures = {Way.COLLABORATIVE: pair.sample(ours), Way.CLOUD: plain.sample()}
    out.print(table({way: summarise([sample]) for way, sample in figures.items()}))
    out.print(_verdict(ours.text == plain.text, ours.num_tokens))


def _verdict(identical: bool, num_tokens: int) -> str:
    if identical:
        return f"Both texts ({num_tokens} tokens) are the same, character for character."
    # With bfloat16 two tokens can be so close that the shape of the batch decides.
    return "The two texts differ: `pipesd bench exact` shows where and why."
