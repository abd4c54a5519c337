"""`pipesd serve`: the cloud side, vLLM's API server with the plugin switched on."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Final

import typer

from openai_gateway.cli.errors import CliError

__all__ = ["CONTEXT_SETTINGS", "METAVAR", "serve", "served_at", "server_command"]

CONTEXT_SETTINGS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
METAVAR: Final = "[MODEL] [any vLLM flag...]"
DEFAULT_MODEL: Final = "embedded"


def serve(ctx: typer.Context) -> None:
    """Serve MODEL with vLLM and the PipeSD plugin; takes any vLLM flag.

    MODEL is a path, a Hugging Face id, or "embedded" (the default): a small model for trying things
    out on a CPU. All flags go to vLLM as they are, but for two of our own: --exact (texts that do not
    depend on the batch, where vLLM can do that) and --fill-in none|ngram (who drafts where no edge does:
    nobody, the default, or vLLM's n-gram speculator).
    """
    from openai_gateway.cli.running import state_dir, write_state

    command = server_command(ctx.args)
    # The server takes this process over, so the note is its own; no clean-up runs: it goes stale.
    write_state("server", *served_at(ctx.args), state_dir())
    sys.stdout.flush()
    os.execv(command[0], command)


def served_at(arguments: Sequence[str]) -> tuple[str, str]:
    """URL on this machine and model of the server that `arguments` start, by vLLM's flags and defaults."""
    given: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        given[name] = value if has_value else next(iter(arguments[position + 1 :]), "")
    host = given.get("--host", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    scheme = "https" if "--ssl-keyfile" in given else "http"
    named = bool(arguments) and not arguments[0].startswith("-")
    model = given.get("--served-model-name") or given.get("--model")
    model = model or (arguments[0] if named else DEFAULT_MODEL)
    return f"{scheme}://{host}:{given.get('--port', '8000')}", model


def server_command(arguments: Sequence[str] = ()) -> list[str]:
    """The command that serves `arguments` ("MODEL --flag ..."; MODEL may be left out).

    Raises `CliError` if vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise CliError(
            "vLLM is not installed here: run `pip install 'pipesd[cloud]'` on a machine with a GPU, "
            "or `pip install 'pipesd[cloud-cpu]'` without one."
        )
    named = bool(arguments) and not arguments[0].startswith("-")
    model = [] if named else [DEFAULT_MODEL]
    return [sys.executable, "-m", "pipesd_vllm.launch.serve", *model, *arguments]
