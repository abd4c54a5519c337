"""`pipesd`: the command line. `main` is its entry point."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from edge_agent.errors import ConfigError, EdgeError
from openai_gateway.cli import chat, config, demo, doctor, edge, models, ps, serve, suggest, trace, up
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.extras import check_system, how_to_install
from openai_gateway.cli.plugins import PluginGroup
from openai_gateway.cli.processes import exit_on_signals

__all__ = ["app", "main"]

DEBUG_VARIABLE = "PIPESD_DEBUG"

app = typer.Typer(
    cls=PluginGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # panels cut names and choices at 80 columns
    help="Draft locally, verify in the cloud: the big model's exact text in fewer of its passes.",
)
app.command(context_settings=serve.CONTEXT_SETTINGS, options_metavar=serve.METAVAR)(serve.serve)
app.command(cls=edge.COMMAND)(edge.edge)
app.command(cls=up.COMMAND, context_settings=up.CONTEXT_SETTINGS, options_metavar=up.METAVAR)(up.up)
app.command()(demo.demo)
app.command()(chat.chat)
app.command()(trace.trace)
app.command(cls=doctor.COMMAND)(doctor.doctor)
app.command()(ps.ps)
app.command(cls=models.COMMAND)(models.models)
app.command()(models.pull)
app.command(cls=suggest.COMMAND)(suggest.suggest)
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pipesd {version('pipesd')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (or PIPESD_DEBUG=1).")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"  # child processes see it, too


def main() -> None:
    """Run the command line and exit: 0, 1 (failed), 2 (misused), 130 (Ctrl-C), 128 + signal."""
    try:
        check_system(sys.platform)
        with exit_on_signals():
            app(prog_name="pipesd")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        else:
            print(f"pipesd: {_sentence(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _sentence(error: Exception) -> str:
    if isinstance(error, CliError | EdgeError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return how_to_install(error.name or str(error))
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"unexpected error ({reason}). Run `pipesd --debug ...` to see where it comes from."


def _exit_code(error: Exception) -> int:
    if isinstance(error, CliError):
        return error.exit_code
    return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    main()
