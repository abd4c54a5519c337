"""The model laid beside the testbed: the same prompts, rivals and link, costs from its traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.harness.prompts import DATASETS
from benchmarks.harness.rivals import Rival, Wire
from benchmarks.reports.metrics import rows
from benchmarks.reports.records import Description, RunRecord
from benchmarks.simulation.agreement import TracePoint
from benchmarks.simulation.costs import Costs, fitted_costs
from benchmarks.simulation.simulate import simulate_all
from edge_agent.control import PolicyParameters
from edge_agent.tracing.analysis.reading import TraceReader
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import Mode

__all__ = ["Compared", "compare", "costs_of_run"]


@dataclass(frozen=True, slots=True)
class Compared:
    """TPT of one rival in the testbed and in the model, in ms."""

    label: str
    dataset: str
    measured_ms: float
    simulated_ms: float

    @property
    def error(self) -> float:
        """Of the model, relative to what was measured."""
        return self.simulated_ms / self.measured_ms - 1.0


def costs_of_run(folder: Path, description: Description) -> Costs:
    """Fitted to the traces of all rivals on the thin wire. Raises `CliError`."""
    traces = folder / "traces" / description.scenario.name
    thin = [path for path in sorted(traces.glob("*.jsonl")) if not path.stem.endswith(Wire.PUBLISHED)]
    sessions = [session for path in thin for session in TraceReader(path).sessions()]
    try:
        return fitted_costs(sessions, description.probed.rtt_ms / 1e3)
    except ValueError as error:
        raise CliError(
            f"{traces} gives no costs ({error}): run the scenario with --traces and the policy vanilla:thin."
        ) from error


def compare(
    records: Sequence[RunRecord],
    traces: Mapping[str, Sequence[TracePoint]],
    description: Description,
    costs: Costs,
) -> list[Compared]:
    """Each rival that drafts, by data set, on the prompts that there are traces of."""
    path = description.scenario.path
    mine = [r for r in records if r.scenario == description.scenario.name and r.prompt in traces]
    parameters = msgspec.convert(
        {f: description.settings[f] for f in PolicyParameters.__dataclass_fields__}, PolicyParameters
    )
    found = []
    for row in rows(mine):
        if row.wire is None or row.mode is None:
            continue
        rival = Rival(row.policy, Wire(row.wire), Mode(row.mode))
        runs = [r for r in mine if r.key == (row.scenario, row.policy, row.wire, row.mode, row.dataset)]
        texts = [traces[r.prompt][: r.num_tokens] for r in runs]
        task = DATASETS[row.dataset]
        simulated = simulate_all(rival, texts, costs, path, task=task, ours=parameters)
        measured_ms = sum(r.total_s for r in runs) * 1e3 / sum(r.num_tokens for r in runs)
        found.append(Compared(row.label, row.dataset, measured_ms, simulated.tpt_ms))
    return found
