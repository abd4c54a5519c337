"""Raw data on virtual time: every answer of every contestant, beside plain streaming of the same prompt."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from benchmarks.claims.claims import SimulatedRun
from benchmarks.harness.rivals import CLOUD, Rival, parse_rivals
from benchmarks.sim.scenarios import Cell, Sources, plan_of
from benchmarks.sim.sim_command import cells_of
from benchmarks.sim.speed import STREAMING, Answer, answers_of, answers_of_plan, is_default

__all__ = ["num_cells", "records_of", "write_records"]

_PUBLISHED: Final = "published"
_GRID: Final[Mapping[str, Sequence[Mapping[str, float]]]] = MappingProxyType(
    {
        "vanilla": [{"max_window": number} for number in (2, 3, 4)],
        "hsl": [{"token_threshold": r2} for r2 in (0.3, 0.5, 0.85)],
        "edgellm": [{"sequence_threshold": r1} for r1 in (0.1, 0.3, 0.7)],
        "pipesd": [
            {"sequence_threshold": r1, "token_threshold": r2}
            for r1, r2 in ((0.9, 0.6), (0.7, 0.35), (0.5, 0.5), (0.3, 0.3), (0.1, 0.25))
        ],
    }
)
"""Thresholds besides those that a policy was published with."""


def num_cells(run: SimulatedRun) -> int:
    """How many cells `run` has, for a display."""
    return len(_cells(run))


def records_of(run: SimulatedRun, note: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """A record an answer. `note` is called after each cell. Raises `CliError`, `RuntimeError`."""
    rivals = parse_rivals(run.policies)
    also = [Sources(name) for name in run.sources]
    for cell in _cells(run):
        streaming = answers_of(cell, STREAMING, run.seed)
        for rival in rivals:
            for sources in (Sources.BOTH, *(also if is_default(rival) else ())):
                seed = run.seed + 1 if rival == STREAMING else run.seed  # A/A: loss falls elsewhere
                answers = answers_of(cell, rival, seed, sources)
                yield from _records(run, cell, rival, sources, _PUBLISHED, answers, streaming)
            for other in _GRID.get(rival.policy, ()) if run.grid else ():
                answers = _with_parameters(cell, rival, run.seed, other)
                name = " ".join(f"{value:g}" for value in other.values())
                yield from _records(run, cell, rival, Sources.BOTH, name, answers, streaming)
        note()


def write_records(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The same bytes for the same records."""
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    file.write_bytes(gzip.compress(lines, mtime=0))


def _cells(run: SimulatedRun) -> list[Cell]:
    return cells_of(
        run.scenarios,
        run.costs,
        run.pair,
        run.edges,
        categories=run.categories or None,
        num_prompts=run.prompts,
        temperature=run.temperature,
    )


def _with_parameters(cell: Cell, rival: Rival, seed: int, other: Mapping[str, float]) -> list[Answer]:
    plan = plan_of(cell, rival, seed)
    edges = tuple(
        msgspec.structs.replace(edge, parameters=replace(edge.parameters, **other))  # type: ignore[arg-type]
        for edge in plan.edges
    )
    return answers_of_plan(cell, rival, msgspec.structs.replace(plan, edges=edges))


def _records(
    run: SimulatedRun,
    cell: Cell,
    rival: Rival,
    sources: Sources,
    thresholds: str,
    answers: Sequence[Answer],
    streaming: Sequence[Answer],
) -> Iterator[dict[str, Any]]:
    for number, (answer, plain) in enumerate(zip(answers, streaming, strict=True)):
        yield {
            "set": run.set,
            "scenario": cell.scenario.name,
            "server": cell.costs_name,
            "edges": cell.num_edges,
            "category": cell.category,
            "answer": number,
            "policy": "A/A" if rival.policy == CLOUD else rival.policy,
            "mode": None if rival.mode is None else str(rival.mode),
            "default": is_default(rival) and sources is Sources.BOTH,
            "sources": str(sources),
            "thresholds": thresholds,
            "tokens": answer.num_tokens,
            "total_ms": round(answer.total_s * 1e3, 3),
            "ttft_ms": round(answer.ttft_s * 1e3, 3),
            "passes": answer.target_passes,
            "drafted": answer.drafts_verified,
            "bytes_up": answer.bytes_up,
            "streaming_ms": round(plain.total_s * 1e3, 3),
            "streaming_ttft_ms": round(plain.ttft_s * 1e3, 3),
        }
