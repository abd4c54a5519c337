"""`pipesd models` and `pipesd pull`: lists the models here and on the server, and downloads more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from openai_gateway.cli import options
from openai_gateway.cli.errors import CliError

__all__ = [
    "ModelFile",
    "built_targets",
    "models",
    "pull",
    "size_text",
]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model, how `--draft` or `--target` names it, and its bytes on disk."""

    kind: str
    name: str
    path: Path
    num_bytes: int


def built_targets(cache: Path) -> Iterator[ModelFile]:
    """Targets that pipesd built: folders with a `config.json` under `cache`/models."""
    for config in sorted((cache / "models").glob("**/config.json")):
        folder = config.parent
        yield ModelFile("target", folder.name, folder, _bytes_of(folder.rglob("*")))


def _bytes_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def size_text(num_bytes: int) -> str:
    """`num_bytes` in decimal units."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


COMMAND = options.with_settings(
    only=("cloud_url", "api_key", "ca_file", "connect_timeout_s", "config_file")
)()


def models(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List draft models and built targets on this machine, and what the server of the settings serves."""
    files = _files()
    url, served, problem = _served(options.given(ctx))
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
    from edge_agent.drafting import resolve_model

    if not model.startswith("hf:"):
        raise CliError(f"{model!r} is not on the Hub: write hf:org/repo/file.gguf.", exit_code=2)
    typer.echo(str(resolve_model(model)))  # huggingface_hub shows the bar, on stderr


def _files() -> list[ModelFile]:
    import platformdirs

    from edge_agent.drafting import drafts_at_hand

    drafts = [ModelFile("draft", *file) for file in drafts_at_hand()]
    return [*drafts, *built_targets(platformdirs.user_cache_path("pipesd"))]


def _served(flags: dict[str, object]) -> tuple[str | None, str | None, str | None]:
    """(URL, model, problem) of the server that the settings name, if they name one."""
    import asyncio

    from edge_agent import EdgeSettings, load_settings, setting_origins
    from edge_agent.errors import CloudError

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
