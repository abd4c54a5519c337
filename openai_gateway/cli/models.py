"""`pipesd models` and `pipesd pull`: which models are here, what the server serves, and getting more."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from openai_gateway.cli import options
from openai_gateway.cli.errors import CliError

if TYPE_CHECKING:
    from openai_gateway.cli.model_files import ModelFile

__all__ = ["models", "pull"]


def models(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    cloud_url: options.CloudUrl = None,
    api_key: options.ApiKey = None,
    connect_timeout_s: options.ConnectTimeoutS = None,
    config_file: options.ConfigFile = None,
) -> None:
    """List draft models and built targets on this machine, and what the server of the settings serves."""
    from openai_gateway.cli.model_files import size_text

    files = _files()
    flags = {name: value for name, value in ctx.params.items() if name != "as_json"}
    url, served, problem = _served(flags)
    if as_json:
        listed = [{"kind": f.kind, "name": f.name, "path": str(f.path), "bytes": f.num_bytes} for f in files]
        typer.echo(json.dumps({"files": listed, "server": url, "serves": served, "problem": problem}))
        return
    for file in files:
        typer.echo(f"{file.kind:8}{size_text(file.num_bytes):>9}  {file.name}  {file.path}")
    if served:
        typer.echo(f"server  {'':>9}  {served}  {url}")
    elif problem:
        typer.echo(f"server: {problem}", err=True)


def pull(
    model: Annotated[
        str, typer.Argument(help="Draft model on the Hugging Face Hub.", metavar="hf:ORG/REPO/FILE.gguf")
    ],
) -> None:
    """Download a draft model into the Hugging Face cache, with a progress bar; prints its path."""
    from edge_agent.drafting.models import resolve_model

    if not model.startswith("hf:"):
        raise CliError(f"{model!r} is not on the Hub: write hf:org/repo/file.gguf.", exit_code=2)
    typer.echo(str(resolve_model(model)))  # huggingface_hub shows the bar, on stderr


def _files() -> list[ModelFile]:
    from pathlib import Path

    import platformdirs
    from huggingface_hub.constants import HF_HUB_CACHE

    from edge_agent.drafting.models import embedded_model
    from edge_agent.errors import ModelError
    from openai_gateway.cli.model_files import ModelFile, built_targets, drafts_in_hub_cache

    found = [*drafts_in_hub_cache(Path(HF_HUB_CACHE)), *built_targets(platformdirs.user_cache_path("pipesd"))]
    try:
        path = embedded_model()
    except ModelError:
        return found
    return [ModelFile("draft", "embedded", path, path.stat().st_size), *found]


def _served(flags: dict[str, object]) -> tuple[str | None, str | None, str | None]:
    """(URL, model, problem) of the server that the settings name, if they name one."""
    from edge_agent.errors import CloudError
    from edge_agent.settings import EdgeSettings, load_settings, setting_origins

    if setting_origins(flags)["cloud_url"] == "default":
        return None, None, None
    settings = load_settings(flags)

    async def ask(settings: EdgeSettings) -> str:
        from edge_agent.agent import cloud_api

        api = cloud_api(settings)
        try:
            return (await api.target()).model
        finally:
            await api.close()

    try:
        return settings.cloud_url, asyncio.run(ask(settings)), None
    except CloudError as error:
        return settings.cloud_url, None, str(error)
