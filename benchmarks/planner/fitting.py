"""Fits the reduced model to what the simulator found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.planner.model import TPT, Gpu, Kind, Load, Workload, fitted

__all__ = ["factors_of", "write_factors"]

_KINDS: Final = {
    ("plain", "auto"): Kind.PLAIN,
    ("n-gram", "auto"): Kind.NGRAM,
    ("ours", "auto"): Kind.STREAMING,
    ("ours", "offload"): Kind.WAITING,
}
_PROMPT: Final = 85
_ANSWER: Final = 128
"""Of the recorded answers, in the mean."""


def write_factors(rows: Path, factors: Path, gpus: Mapping[str, Gpu]) -> None:
    """Fit to the rows in a file of `pipesd bench capacity --json`; `gpus` are their costs by name."""
    found = factors_of(msgspec.json.decode(rows.read_bytes()), gpus)
    factors.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


def factors_of(rows: Sequence[dict[str, Any]], gpus: Mapping[str, Gpu]) -> dict[str, float]:
    """By kind the simulated median time a token over the model's; 1 where nothing was simulated."""
    pairs: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in Kind}
    for row in rows:
        kind = _KINDS.get((row["way"], row["mode"]))
        if kind is None or row["costs"] not in gpus or row["plain"] or row["junk"]:
            continue
        work = Workload(
            _PROMPT, _ANSWER, 0.0, 1.0, row["rtt_ms"] / 1e3, row["draft_ms"] / 1e3, acceptance=0.76
        )
        modelled = TPT[kind](Load(gpus[row["costs"]], work, row["edges"]))
        pairs[kind].append((row["tpt_p50_ms"] / 1e3, modelled.tpt_s))
    return {str(kind): round(fitted(found), 4) for kind, found in pairs.items()}
