"""Benchmarks on real engines: exactness, speed, and the plugin's own cost."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import typer

from benchmarks.claims.command import claims
from benchmarks.exactness.exact import exact
from benchmarks.exactness.matrix import matrix
from benchmarks.faults.command import faults
from benchmarks.faults.soak import soak
from benchmarks.gpu.commands import gpu
from benchmarks.harness.options import DRAFTING, EMULATION, SERVER, THRESHOLDS, takes
from benchmarks.micro import commands as micro
from benchmarks.sim.capacity_command import capacity
from benchmarks.sim.chaos_command import chaos
from benchmarks.sim.recording import record
from benchmarks.sim.sim_command import sim
from benchmarks.sim.vocabulary import vocabulary
from benchmarks.speed.gateway import gateway
from benchmarks.speed.load import load
from benchmarks.speed.overhead import overhead
from benchmarks.speed.quick import quick
from benchmarks.testbed.commands import report, run
from openai_gateway.cli.errors import CliError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmarks on real engines: exactness, speed, and the plugin's own cost.",
)
takes(app, SERVER, DRAFTING, EMULATION)(quick)
takes(app, SERVER, DRAFTING)(exact)
takes(app, SERVER)(matrix)
takes(app, SERVER)(overhead)
takes(app, SERVER)(load)
takes(app, SERVER)(gpu)
takes(app, SERVER, DRAFTING)(gateway)
takes(app, THRESHOLDS, {name: SERVER[name] for name in ("target", "dtype", "config_file")})(run)
app.command()(report)
app.command()(chaos)
takes(app, SERVER, DRAFTING)(faults)
takes(app, SERVER, DRAFTING)(soak)
app.command()(capacity)
app.command()(claims)
takes(app, SERVER, {"draft": DRAFTING["draft"]})(sim)
takes(app, SERVER, DRAFTING)(record)
app.command()(vocabulary)
app.add_typer(micro.app, name="micro")

_FORMER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "simulate": "it is `pipesd bench sim` now",
        "tune": "the mode `auto` tunes nothing; `pipesd bench micro tuner` measures the tuner of the others",
        "pairs": "`pipesd bench run` makes the models that a scenario names",
    }
)
"""Commands of older versions, and what to do instead."""


def _former(name: str, instead: str) -> None:
    @app.command(
        name, hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )
    def answer() -> None:
        raise CliError(f"There is no `pipesd bench {name}` any more: {instead}.", exit_code=2)


for _name, _instead in _FORMER.items():
    _former(_name, _instead)
