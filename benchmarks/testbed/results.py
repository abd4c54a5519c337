"""A folder of results: per scenario `NAME.jsonl` (records) and `NAME.json` (what was run), `summary.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.netlink.probe import Probed
from benchmarks.scenarios.loading import Scenario
from benchmarks.reports.metrics import rows, summary
from benchmarks.reports.records import RunRecord, as_json, read_records
from openai_gateway.cli.errors import CliError

__all__ = ["Description", "Results", "read_results", "write_summary"]

_SUMMARY: Final = "summary.json"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and on what."""

    scenario: Scenario
    draft: str
    target: str
    link: str
    probed: Probed
    energy: str
    num_tokens: int
    num_prompts: int
    """Of each data set, a seed."""
    num_seeds: int
    datasets: list[str]
    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str


class Results(msgspec.Struct, frozen=True):
    """All that a folder holds."""

    descriptions: dict[str, Description]
    records: list[RunRecord]


def read_results(folder: Path) -> Results:
    """Raises `CliError` if there is nothing in it, or something else."""
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise CliError(f"{folder} holds no results: make some with `pipesd bench run --out {folder}`.")
    descriptions = {}
    for path in paths:
        try:
            text = path.with_suffix(".json").read_bytes()
            descriptions[path.stem] = msgspec.json.decode(text, type=Description)
        except (OSError, msgspec.DecodeError) as error:
            raise CliError(f"{path.with_suffix('.json')} cannot be read: {error}.") from error
    return Results(descriptions, read_records(paths))


def write_summary(folder: Path) -> None:
    """`summary.json` over all scenarios in the folder. Raises `CliError`."""
    records = read_records(sorted(folder.glob("*.jsonl")))
    (folder / _SUMMARY).write_bytes(as_json(summary(rows(records))))
