"""`pipesd config show`: every setting of the edge agent, its value and where it comes from."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from openai_gateway.cli import options

__all__ = ["app"]

_MASK: Final = "********"

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Settings of the edge agent.")


@app.callback()
def _root() -> None:
    """Settings of the edge agent."""


@app.command(cls=options.with_settings()())
def show(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print each setting, its value and origin: flag, env, credential, file or default. Keys are masked."""
    rows = _rows(options.given(ctx))
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "origin": origin} for name, value, origin in rows}))
        return
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        typer.echo(f"{name:{width}}  {origin:8}{'-' if value is None else value}")


def _rows(flags: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(setting, value, origin). Raises `ConfigError` for an invalid setting."""
    from edge_agent import load_settings, setting_origins

    origins = setting_origins(flags)
    has_server = origins["cloud_url"] != "default"
    # The one setting without a default must not keep the others from being shown.
    settings = load_settings(flags if has_server else {**flags, "cloud_url": "http://unset"})
    rows = []
    for name, origin in origins.items():
        unset = name == "cloud_url" and not has_server
        rows.append((name, None, "unset") if unset else (name, _shown(getattr(settings, name)), origin))
    return rows


def _shown(value: Any) -> Any:
    """The value as JSON; secrets are masked."""
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, tuple):
        return ", ".join(value) or None
    return value if value is None or isinstance(value, bool | int | float) else str(value)
