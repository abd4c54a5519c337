"""Scenario files."""

from pathlib import Path

import pytest

from benchmarks.scenarios.loading import load_scenario, scenario_names
from openai_gateway.cli.errors import CliError


def test_all_of_ours_load() -> None:
    """Every file that comes along is valid, and the paper's four, the fast edge and the far one are there."""
    found = {name: load_scenario(name) for name in scenario_names()}
    assert {*(f"scenario-{n}" for n in range(1, 5)), "fast-edge", "far"} <= set(found)
    assert [found[f"scenario-{n}"].gamma_ms for n in (1, 2, 3)] == [43, 70, 150]
    assert found["fast-edge"].path.rtt_ms == 30
    assert found["far"].path.rtt_ms == 100
    assert found["far"].up.loss == found["far"].down.loss == 0.01
    assert (min(found["scenario-4"].up.mbit_trace), max(found["scenario-4"].up.mbit_trace)) == (10, 80)


def test_an_uplink_of_ones_own() -> None:
    """A rate after the name makes one scenario a sweep; all else stays, and each has a name of its own."""
    slow, fast = (load_scenario(f"bandwidth-{n}") for n in (10, 80))
    assert (slow.up.mbit, fast.up.mbit, fast.name) == (10, 80, "bandwidth-80")
    assert (slow.down, slow.gamma_ms) == (fast.down, fast.gamma_ms)
    assert load_scenario("scenario-4-30").up.mbit_trace == ()


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """A path to a TOML file is a scenario by the file's name."""
    file = tmp_path / "mine.toml"
    file.write_text('title = "t"\ndraft = "embedded"\ntarget = "x/y"\n[up]\n[down]\nmbit = 3\n')
    assert load_scenario(str(file)).name == "mine"


@pytest.mark.parametrize(
    "text", ['title = "t"', "title = ", 'title="t"\ndraft="d"\ntarget="t"\nspeed=1\n[up]\n[down]']
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    """Missing and unknown fields, and what is not TOML, are one sentence."""
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(CliError, match="cannot be used"):
        load_scenario(str(file))


def test_unknown_name() -> None:
    """The names that exist are offered."""
    with pytest.raises(CliError, match="fast-edge"):
        load_scenario("slow-edge")
