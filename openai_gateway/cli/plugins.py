"""Subcommands of other packages, named by entry points and imported only when they are used."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["GROUP", "PluginGroup"]

GROUP: Final = "pipesd.commands"
"""Entry point group; each entry is a `typer.Typer`, or a function that is one command."""


class PluginGroup(TyperGroup):
    """Its own commands and those of the entry point group `GROUP`; its own take precedence."""

    def plugins(self) -> Mapping[str, EntryPoint]:
        """Entry points by command name."""
        return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in self.commands}

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Own commands in their order, then the plugins'."""
        return [*super().list_commands(ctx), *sorted(self.plugins())]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The command `cmd_name`; for a plugin only a description, for the list of commands."""
        entry = self.plugins().get(cmd_name)
        return _describe(entry) if entry else super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Name, command and remaining arguments of the command to run; a plugin is imported here."""
        name, command, rest = super().resolve_command(ctx, args)
        entry = self.plugins().get(name or "")
        return name, _load(entry) if entry else command, rest


def _load(entry: EntryPoint) -> Any:
    loaded = entry.load()
    if not isinstance(loaded, typer.Typer):
        function, loaded = loaded, typer.Typer(pretty_exceptions_enable=False)
        loaded.command()(function)
    command = typer.main.get_command(loaded)
    command.name = entry.name
    return command


def _describe(entry: EntryPoint) -> TyperCommand:
    """A stand-in for the list of commands: the first line of the module's docstring as its help."""
    return TyperCommand(entry.name, help=_summary(entry.module))


def _summary(module: str) -> str:
    """Read from the source without running it, so that `--help` stays quick."""
    try:
        spec = importlib.util.find_spec(module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else None
        docstring = ast.get_docstring(ast.parse(source)) if source is not None else "(not installed)"
    except ModuleNotFoundError:
        return "(not installed)"
    except (ImportError, OSError, SyntaxError, ValueError):
        return "(cannot be loaded)"
    return (docstring or "").partition("\n")[0]
