"""`pipesd ps`: the gateways and servers of this user that run on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

__all__ = ["ps"]

_TIMEOUT_S = 2.0


def ps(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """List running gateways and servers with their address, model and health."""
    from openai_gateway.cli.running import list_running, state_dir

    rows = [
        {**asdict(running), "health": _health(running.health_url)} for running in list_running(state_dir())
    ]
    if as_json:
        typer.echo(json.dumps(rows))
    elif not rows:
        typer.echo("Nothing runs: start it with `pipesd up`, `pipesd edge` or `pipesd serve`.", err=True)
    else:
        for row in rows:
            typer.echo(f"{row['pid']:>8}  {row['kind']:8}  {row['health']:12}  {row['url']}  {row['model']}")


def _health(url: str) -> str:
    """The status "ok" or "degraded", or why there is none."""
    import httpx

    try:
        answer = httpx.get(url, timeout=_TIMEOUT_S, trust_env=False)
        status = answer.json().get("status") if answer.content else None
    except httpx.HTTPError:
        return "no answer"
    except ValueError:
        status = None
    return str(status or ("ok" if answer.is_success else f"HTTP {answer.status_code}"))
