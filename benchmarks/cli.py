"""Benchmarks on real engines: exactness, speed, and the plugin's own cost."""

from __future__ import annotations

import typer

from benchmarks.exactness.exact import exact
from benchmarks.exactness.matrix import matrix
from benchmarks.faults.command import faults
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
app.command()(capacity)
takes(app, SERVER, {"draft": DRAFTING["draft"]})(sim)
takes(app, SERVER, DRAFTING)(record)
app.command()(vocabulary)
app.add_typer(micro.app, name="micro")
