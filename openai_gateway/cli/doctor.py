"""`pipesd doctor`: do draft, link and server fit together, and what is to be expected of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openai_gateway.cli import options

if TYPE_CHECKING:
    from edge_agent import EdgeSettings
    from openai_gateway.cli.diagnosis import Figures, Verdict

__all__ = ["COMMAND", "doctor", "report"]

COMMAND = options.with_settings()()

_NAMES = {
    "draft_ms": "drafting, ms/token",
    "plain_ms": "server alone, ms/token",
    "auto_ms": "mode auto, ms/token",
    "auto_passes": "  its passes/token",
    "step_ms": "verifying pass, ms",
    "rtt_ms": "round trip, ms",
    "acceptance": "acceptance",
    "uplink_mbit_s": "uplink, Mbit/s",
    "downlink_mbit_s": "downlink, Mbit/s",
}
_WHAT_IT_DOES = {
    "stream": "stream and draft little",
    "overlap": "draft while the server decodes by itself",
    "wait": "have the server wait for drafts",
}


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check draft, server and link with short real generations, and say which mode fits and why.

    Also says what is unsafe about where the gateway would listen.
    """
    import asyncio

    from edge_agent import load_settings
    from edge_agent.errors import EdgeError
    from openai_gateway.cli.diagnosis import diagnose
    from openai_gateway.http.access import risks

    settings = load_settings(options.given(ctx))
    dangers = risks(settings)
    if not as_json:
        for danger in dangers:
            typer.echo(f"risk: {danger}")
    try:
        pair, figures = asyncio.run(_measure(settings))
    except EdgeError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"ok": False, "problem": str(error), "risks": dangers}))
        raise typer.Exit(1) from error
    others = [asyncio.run(_other(settings, url)) for url in settings.other_targets]
    told = pair | {"risks": dangers} | ({"others": others} if others else {})
    report(told, figures, diagnose(figures, settings.max_ahead), as_json=as_json)


async def _other(settings: EdgeSettings, url: str) -> dict[str, Any]:
    """What is to be said of another target: that it is there, and how it is drafted for."""
    from edge_agent import EdgeAgent
    from edge_agent.agent import for_another_target
    from edge_agent.errors import EdgeError

    try:
        agent = await EdgeAgent.start(await for_another_target(settings, url))
        try:
            return {"ok": True, "url": url, "target": (await agent.target()).model, "draft": agent.draft_name}
        finally:
            await agent.close()
    except EdgeError as error:
        return {"ok": False, "url": url, "problem": str(error)}


async def _measure(settings: EdgeSettings) -> tuple[dict[str, Any], Figures]:
    """Names and fingerprint of the pair, and its figures. Raises `EdgeError`."""
    from dataclasses import replace

    from edge_agent import EdgeAgent
    from edge_agent.api import Fallback
    from openai_gateway.cli.diagnosis import Probe

    # An unreachable server is the finding, not something to work around.
    settings = settings.model_copy(update={"fallback": Fallback.ERROR, "tune": False})
    async with _tokenizer_download(settings) as (download, fingerprint):
        agent = await EdgeAgent.start(settings)
        try:
            probe = Probe(agent, agent.link_snapshot)
            downlink = await probe.measure_downlink(download)
            figures = replace(await probe.measure(), downlink_mbit_s=downlink)
            target = await agent.target()
            pair = {"draft": agent.draft_name, "target": target.model, "fingerprint": await fingerprint()}
        finally:
            await agent.close()
    return pair, figures


@asynccontextmanager
async def _tokenizer_download(settings: EdgeSettings) -> AsyncIterator[Any]:
    """Two functions: the tokenizer's bytes as they arrive, and the fingerprint that the server states."""
    import httpx

    from edge_agent.verifier import proxy_of, trusting
    from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH

    key = settings.cloud_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout_s = settings.connect_timeout_s

    async with httpx.AsyncClient(
        base_url=settings.cloud_url,
        headers=headers,
        timeout=timeout_s,
        trust_env=False,
        proxy=proxy_of(settings.cloud_url),
        verify=trusting(settings.ca_file) or True,
    ) as client:

        async def download() -> AsyncIterator[bytes]:
            try:
                async with client.stream("GET", TOKENIZER_PATH) as answer:
                    async for part in answer.aiter_raw():
                        yield part
            except httpx.HTTPError as error:
                raise _lost(settings.cloud_url, error) from error

        async def fingerprint() -> str:
            try:
                return str((await client.get(INFO_PATH)).json()["fingerprint"]["sha256"])
            except httpx.HTTPError as error:
                raise _lost(settings.cloud_url, error) from error

        yield download, fingerprint


def _lost(url: str, error: Exception) -> Exception:
    from edge_agent.errors import CloudUnreachable

    reason = error or type(error).__name__
    return CloudUnreachable(f"the connection to {url} was lost ({reason}); check the network and try again")


def report(pair: dict[str, Any], figures: Figures, verdict: Verdict, *, as_json: bool) -> None:
    """Print the findings to stdout."""
    expected = {arm: {"ms": cost.ms, "passes": cost.passes} for arm, cost in verdict.expected.items()}
    told = {"arm": verdict.arm, "helps": verdict.helps, "reason": verdict.reason}
    if as_json:
        typer.echo(
            json.dumps({"ok": True, **pair, "measured": asdict(figures), "expected": expected, **told})
        )
        return
    draft = "none" if figures.draft_ms is None else pair["draft"]
    typer.echo(f"draft {draft}, target {pair['target']}")
    typer.echo(f"  tokenizer fingerprint {pair['fingerprint'][:16]}")
    for name, text in _NAMES.items():
        value = getattr(figures, name)
        typer.echo(f"  {text:24}{'not measured' if value is None else f'{value:.2f}'}")
    typer.echo("expected, ms/token and target passes/token")
    for arm, cost in verdict.expected.items():
        typer.echo(f"  {arm:24}{cost.ms:.2f}  {cost.passes:.2f}")
    typer.echo(f"mode auto will {_WHAT_IT_DOES[verdict.arm.value]}: {verdict.reason}.")
    for other in pair.get("others", ()):
        if other["ok"]:
            typer.echo(f"draft {other['draft']}, target {other['target']} at {other['url']}: not measured")
        else:
            typer.echo(f"target at {other['url']}: {other['problem']}")
