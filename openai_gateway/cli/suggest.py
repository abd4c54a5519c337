"""`pipesd suggest`: which draft model fits a target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openai_gateway.cli import options
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.models import size_text

if TYPE_CHECKING:
    from edge_agent import EdgeSettings
    from pipesd_vllm.wire import Fingerprint

__all__ = ["COMMAND", "suggest"]

COMMAND = options.with_settings(
    only=("cloud_url", "api_key", "ca_file", "connect_timeout_s", "config_file")
)()


def suggest(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="Name of a target; that of --cloud if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which draft model fits a target: one at hand with its vocabulary, or a known one of its family.

    With neither a target nor a server it lists the known families.
    """
    import asyncio

    from edge_agent import load_settings, setting_origins
    from edge_agent.drafting import FAMILIES, drafts_at_hand, family_of, fits

    flags = options.given(ctx)
    vocabulary = None
    if target is None and setting_origins(flags)["cloud_url"] != "default":
        target, vocabulary = asyncio.run(_served(load_settings(flags)))
    if target is None:
        families = [family._asdict() for family in FAMILIES]
        lines = [f"{family.name:16}{family.draft}" for family in FAMILIES]
        _tell({"families": families}, lines, as_json=as_json)
        return
    found = drafts_at_hand()
    fitting = [] if vocabulary is None else [file for file in found if fits(file.path, vocabulary)]
    family = family_of(target)
    lines = [f"target {target}"]
    lines += [f"at hand, its vocabulary: {file.setting} ({size_text(file.num_bytes)})" for file in fitting]
    if vocabulary is None and found:
        lines.append(
            f"at hand, not compared (name the server with --cloud): {', '.join(f.setting for f in found)}"
        )
    if family is not None and family.draft not in [file.setting for file in fitting]:
        command = "" if family.draft == "embedded" else f": pipesd pull {family.draft}"
        lines.append(f"known for {family.name}: {family.draft}{command}")
    best = fitting[0].setting if fitting else family.draft if family is not None else None
    if best is None:
        lines.append(
            "no draft is known: look drafts up (--draft none), or name any model, whose tokens are translated"
        )
    else:
        lines.append(f"what to expect here: pipesd doctor --draft {best}")
    _tell(
        {
            "target": target,
            "fitting": [file.setting for file in fitting],
            "family": None if family is None else family.name,
            "known": None if family is None else family.draft,
            "best": best,
        },
        lines,
        as_json=as_json,
    )


async def _served(settings: EdgeSettings) -> tuple[str, Fingerprint]:
    """Name and vocabulary of the server's target. Raises `CliError`."""
    from edge_agent.agent import cloud_api
    from edge_agent.errors import CloudError

    api = cloud_api(settings)
    try:
        return (await api.target()).model, await api.vocabulary()
    except CloudError as error:
        raise CliError(f"{error}.") from error
    finally:
        await api.close()


def _tell(found: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))
