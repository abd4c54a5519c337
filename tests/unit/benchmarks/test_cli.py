"""The commands and their flags."""

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.harness.options import names_in, numbers_in
from openai_gateway.cli.errors import CliError

EDGE = ["--mode", "--policy", "--draft", "--patience-ms", "--max-window"]
SERVER = ["--cloud", "--api-key", "--target", "--dtype", "--json"]


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("quick", ["--tokens", "--prompts", "--repeats", "--rtt-ms", "--edge-gamma-ms", *EDGE, *SERVER]),
        (
            "exact",
            ["--prompts", "--num", "--temperature", "--top-p", "--seed", "--stop-at-eos", *EDGE, *SERVER],
        ),
        ("matrix", ["--prompts", "--num", "--settings", "--tokens", *SERVER]),
        ("overhead", ["--rounds", "--repeats", *SERVER]),
        ("load", ["--clients", "--answers", "--tokens", "--repeats", "--parked", "--compare", *SERVER]),
        ("load", ["--edges", "--plain", "--turns", "--draft-ms", "--rtt-ms", "--agreement", "--arrivals"]),
        ("capacity", ["--costs", "--edges", "--plain", "--junk", "--modes", "--ways", "--picture", "--json"]),
        ("gpu", ["--parts", "--rounds", "--repeats", "--device", *SERVER]),
        ("gateway", ["--clients", "--at-once", "--rounds", "--tokens", "--repeats", *EDGE, *SERVER]),
        (
            "run",
            ["--scenario", "--policies", "--tokens", "--seeds", "--datasets", "--out", "--draft", "--dtype"],
        ),
        ("report", ["DIR"]),
        (
            "sim",
            [
                "--scenarios",
                "--costs",
                "--policies",
                "--pair",
                "--edges",
                "--quick",
                "--against-real",
                "--json",
            ],
        ),
        ("claims", ["--check", "--write", "--renew", "--data", "--claims"]),
        ("record", ["FILE", "--prompts", "--num", "--tokens", "--temperature", "--draft", "--target"]),
        ("micro", ["control", "drafting", "acceptance", "tuner", "hooks"]),
    ],
)
def test_help(command: str, flags: list[str]) -> None:
    """Each command lists what it takes, and what vLLM may be given after `--`."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert [flag for flag in flags if flag not in result.output] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["quick", "--tokens", "0"],
        ["exact", "--num", "x"],
        ["overhead", "--rounds", "1"],
        ["gateway", "--clients", "0"],
        ["fast"],
        ["run", "--out", "x"],
        ["run", "--out", "x", "--scenario", "far", "--link", "carrier-pigeon"],
        ["micro", "sampler", "--device", "cuda"],
    ],
)
def test_misuse(arguments: list[str]) -> None:
    """Nothing is started for flags that make no sense."""
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "--edges", "some"],
        ["load", "--parked", "-1"],
        ["load", "--edges", "1", "--arrivals", "poisson"],
        ["capacity", "--ways", "by magic"],
        ["capacity", "--costs", "a-supercomputer"],
        ["capacity", "--modes", "slow"],
        ["capacity", "--edges", "1,-4"],
        ["capacity", "--plain", "none"],
        ["sim", "--edges", "x"],
        ["sim", "--edges", ","],
        ["sim", "--sources", "model,luck"],
        ["sim", "--scenarios", ""],
        ["gpu", "--parts", "noise,all"],
        ["micro", "hooks", "--parked", "many"],
        ["micro", "front-end", "--streams", "0"],
        ["micro", "lookup", "--prompts", "1e3"],
        ["micro", "page", "--messages", "many"],
    ],
    ids=" ".join,
)
def test_values_that_mean_nothing(arguments: list[str]) -> None:
    """They are refused by name, with the exit code of misuse, before anything is started."""
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, CliError)
    assert error.exit_code == 2
    assert arguments[-2] in str(error) or arguments[-1] in str(error)


def test_lists_with_commas() -> None:
    """Blanks and a comma too many are no part of them."""
    assert numbers_in(" 1, 4,16,", "--edges") == [1, 4, 16]
    assert names_in("plain, no budget", "--ways", ["plain", "no budget"]) == ["plain", "no budget"]


def test_micro_prints_its_figures() -> None:
    """The control plane's cost comes a line a link and a policy, without a server."""
    result = CliRunner().invoke(app, ["micro", "control"])
    assert result.exit_code == 0
    assert "plan_batches(N=20), us:" in result.output
    assert "adaptive" in result.output


@pytest.mark.parametrize(
    ("name", "now"), [("simulate", "bench sim"), ("tune", "micro tuner"), ("pairs", "bench run")]
)
def test_former_names(name: str, now: str) -> None:
    """One sentence says what took its place, whatever flags came along."""
    result = CliRunner().invoke(app, [name, "--rounds", "3"])
    assert isinstance(result.exception, CliError)
    assert result.exception.exit_code == 2
    assert now in str(result.exception)
    assert name not in CliRunner().invoke(app, ["--help"]).output.split()
