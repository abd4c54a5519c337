"""The commands and their flags."""

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("quick", ["--tokens", "--prompts", "--repeats", "--mode", "--draft", "--target", "--json"]),
        ("exact", ["--prompts", "--num", "--dtype", "--temperature", "--cloud", "--api-key"]),
        ("overhead", ["--rounds", "--cloud", "--json"]),
        ("gateway", ["--clients", "--at-once", "--rounds", "--tokens", "--repeats", "--cloud", "--json"]),
        ("pairs", ["--tokens", "--prompts", "--depth", "--specbench"]),
        (
            "run",
            ["--scenario", "--policies", "--tokens", "--seeds", "--datasets", "--out", "--draft", "--target"],
        ),
        ("report", ["DIR"]),
        ("simulate", ["--traces", "--record", "--check", "--gamma-ms", "--edges"]),
    ],
)
def test_help(command: str, flags: list[str]) -> None:
    """Each command lists what it takes."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert all(flag in result.output for flag in flags)


@pytest.mark.parametrize(
    "arguments",
    [
        ["quick", "--tokens", "0"],
        ["exact", "--num", "x"],
        ["overhead", "--rounds", "1"],
        ["gateway", "--clients", "0"],
        ["fast"],
        ["run", "--out", "x"],
    ],
)
def test_misuse(arguments: list[str]) -> None:
    """Nothing is started for flags that make no sense."""
    assert CliRunner().invoke(app, arguments).exit_code == 2
