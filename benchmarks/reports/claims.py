"""What we claim against each rival, laid beside what was measured in the same run. Pure.

A claim counts only at a cost: our session may use no more target passes a token than the rival's, or than
the claim's own limit against plain streaming, which uses one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.reports.metrics import Row
from benchmarks.harness.rivals import CLOUD, Rival, Wire
from edge_agent.policies.registry import DEFAULT_POLICY
from pipesd_vllm.protocol import Mode

__all__ = ["CLAIMS", "CLAIM_HEADINGS", "Claim", "Verdict", "claim_cells", "claims_table", "verdicts"]

_PAPERS: Final = ("scenario-1", "scenario-2", "scenario-3", "scenario-4")
_ALL: Final = (*_PAPERS, "fast-edge", "far")
CLAIM_HEADINGS: Final = (
    *("scenario", "data set", "ours", "against", "times as fast", "claimed", "passes a token"),
    "verdict",
)
_SAVING: Final = (Mode.OFFLOAD, Mode.BALANCED)
_PASSES_ROUNDING: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Claim:
    """Ours is at least `at_least` times as fast as `rival` in `scenario`, on `dataset` (None: on each)."""

    scenario: str
    rival: Rival
    modes: tuple[Mode, ...]
    at_least: float
    dataset: str | None = None
    most_passes: float | None = None
    """Target passes a token that ours may use; None: as many as the rival."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim on one data set and the fastest of our rows that keeps to its passes (if none: the fastest)."""

    claim: Claim
    dataset: str
    ours: Row
    rival: Row
    within_passes: bool

    @property
    def ratio(self) -> float:
        """How many times as fast as the rival, medians over seeds."""
        return _tpt_ms(self.rival) / _tpt_ms(self.ours)

    @property
    def holds(self) -> bool:
        return self.within_passes and self.ratio >= self.claim.at_least


def _against(policy: str, wire: Wire) -> Rival:
    return Rival(policy, wire, Mode.OFFLOAD)


CLAIMS: Final = (
    *(
        Claim(scenario, _against("pipesd", Wire.PUBLISHED), _SAVING, at_least)
        for scenario, at_least in zip(_PAPERS, (1.8, 1.35, 1.05, 1.3), strict=True)
    ),
    *(Claim(scenario, _against("vanilla", Wire.PUBLISHED), _SAVING, 3.0) for scenario in _PAPERS),
    *(Claim(scenario, _against("pipesd", Wire.THIN), _SAVING, 0.97) for scenario in _ALL),
    Claim("fast-edge", Rival(CLOUD), _SAVING, 1.5, "humaneval", most_passes=0.45),
    Claim("fast-edge", Rival(CLOUD), _SAVING, 1.35, "gsm8k", most_passes=0.45),
    *(Claim(scenario, Rival(CLOUD), (Mode.LATENCY,), 0.95) for scenario in _ALL),
)


def verdicts(all_rows: Iterable[Row]) -> list[Verdict]:
    """Of all claims for which both sides were measured, in the order of the rows' scenarios."""
    found: list[Verdict] = []
    for (scenario, dataset), group in groupby(all_rows, key=lambda row: (row.scenario, row.dataset)):
        of_group = list(group)
        claims = [c for c in CLAIMS if c.scenario == scenario and c.dataset in (None, dataset)]
        found += [v for claim in claims if (v := _verdict(claim, dataset, of_group)) is not None]
    return found


def _verdict(claim: Claim, dataset: str, of_group: Sequence[Row]) -> Verdict | None:
    rival = next((row for row in of_group if row.label == claim.rival.label), None)
    ours = [row for row in of_group if row.policy == DEFAULT_POLICY and row.mode in claim.modes]
    if rival is None or not ours:
        return None
    limit = (_passes(rival) if claim.most_passes is None else claim.most_passes) + _PASSES_ROUNDING
    cheap = [row for row in ours if _passes(row) <= limit]
    return Verdict(claim, dataset, min(cheap or ours, key=_tpt_ms), rival, within_passes=bool(cheap))


def claims_table(found: Sequence[Verdict]) -> Table:
    """One line a verdict, in 80 characters."""
    table = Table(title="Claims, medians over seeds", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("scenario", "data set", "ours", "against", "faster\n/claimed", "passes\nours/theirs"):
        table.add_column(heading, no_wrap=True)
    table.add_column("")
    for verdict in found:
        scenario, dataset, ours, rival, ratio, claimed, passes, word = claim_cells(verdict)
        mode = ours.removeprefix(f"{DEFAULT_POLICY}:")
        table.add_row(scenario, dataset, mode, rival, f"{ratio}/{claimed}", passes.replace(" ", ""), word)
    return table


def claim_cells(verdict: Verdict) -> tuple[str, ...]:
    """Under `CLAIM_HEADINGS`."""
    claim, ours, rival = verdict.claim, verdict.ours, verdict.rival
    passes = f"{_passes(ours):.3f} / {_passes(rival):.3f}"
    figures = f"{verdict.ratio:.2f}", f"{claim.at_least:g}", passes
    return claim.scenario, verdict.dataset, ours.label, rival.label, *figures, _word(verdict)


def _word(verdict: Verdict) -> str:
    if verdict.holds:
        return "holds"
    return "missed" if verdict.within_passes else "more passes"


def _tpt_ms(row: Row) -> float:
    return row.figures["tpt_ms"].median


def _passes(row: Row) -> float:
    return row.figures["target_passes_per_token"].median
