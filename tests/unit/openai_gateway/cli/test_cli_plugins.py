"""Subcommands of other packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from openai_gateway.cli.plugins import GROUP, PluginGroup

PACKAGE = "pipesd_test_plugins"
MODULES = {
    "__init__": "",
    "group": '''
"""Measures things. With care."""
import typer
app = typer.Typer()

@app.command()
def quick() -> None:
    """Quickly."""
    print("measured")

@app.command()
def slow() -> None:
    """Slowly."""
''',
    "function": '''
"""Shows things."""

def show(number: int = 1) -> None:
    """Show a number."""
    print(f"number {number}")
''',
    "broken": '''
"""Needs what is not there."""
import no_such_package_anywhere
''',
}
ENTRIES = {
    "measure": f"{PACKAGE}.group:app",
    "show": f"{PACKAGE}.function:show",
    "broken": f"{PACKAGE}.broken:app",
    "missing": "no_such_package_anywhere.cli:app",
    "own": f"{PACKAGE}.broken:app",
}


class Group(PluginGroup):
    """Takes its plugins from a table instead of the installed packages."""

    def plugins(self) -> Mapping[str, EntryPoint]:
        entries = {name: EntryPoint(name, value, GROUP) for name, value in ENTRIES.items()}
        return {name: entry for name, entry in entries.items() if name not in self.commands}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[typer.Typer]:
    """A command line whose plugins are importable, and not imported yet."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(tmp_path))
    application = typer.Typer(cls=Group, pretty_exceptions_enable=False)

    @application.callback()
    def root() -> None:
        """A group, although it has one command of its own."""

    @application.command()
    def own() -> None:
        print("mine")

    yield application
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_help_describes_plugins_without_running_them(app: typer.Typer) -> None:
    """The list of commands has the plugins' first docstring lines, even of one that cannot be imported."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for text in (
        "Measures things. With care.",
        "Shows things.",
        "Needs what is not there.",
        "(not installed)",
    ):
        assert text in result.output
    assert f"{PACKAGE}.group" not in sys.modules


def test_a_plugin_may_be_a_group(app: typer.Typer) -> None:
    """A `typer.Typer` with several commands becomes a group of them."""
    assert CliRunner().invoke(app, ["measure", "quick"]).output == "measured\n"
    assert "Slowly." in CliRunner().invoke(app, ["measure", "--help"]).output


def test_a_plugin_may_be_a_function(app: typer.Typer) -> None:
    """A plain function becomes one command with its options."""
    assert CliRunner().invoke(app, ["show", "--number", "3"]).output == "number 3\n"


def test_a_plugin_that_cannot_be_imported_fails_when_used(app: typer.Typer) -> None:
    """Its ModuleNotFoundError reaches the caller, which names the package."""
    result = CliRunner().invoke(app, ["broken"])
    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exception.name == "no_such_package_anywhere"


def test_own_commands_win(app: typer.Typer) -> None:
    """A plugin cannot replace a command of ours."""
    assert CliRunner().invoke(app, ["own"]).output == "mine\n"


def test_the_bench_plugin_is_registered() -> None:
    """The installed distribution names its benchmark commands."""
    assert "bench" in PluginGroup().plugins()
