"""One generation with all that was measured about it, as a line of JSON, and a folder of them.

Per scenario `NAME.jsonl` (records) and `NAME.json` (what was run); `summary.json` over all.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.harness.clients import TimedAnswer
from benchmarks.harness.rivals import CLOUD, LOCAL, Rival
from benchmarks.netlink.probe import Probed
from benchmarks.scenarios.loading import Scenario
from openai_gateway.cli.errors import CliError

__all__ = [
    "Description",
    "Results",
    "RunRecord",
    "append_record",
    "machine",
    "read_results",
    "with_same_text",
    "write_json",
]


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One generation. None: does not apply or was not measured.

    Times in seconds from the request to the client's last token; `gaps_ms` between deliveries.
    """

    scenario: str
    seed: int
    dataset: str
    prompt: str
    policy: str
    wire: str | None = None
    mode: str | None = None
    num_tokens: int
    total_s: float
    ttft_s: float
    gaps_ms: list[float]
    target_passes: float
    """0 for the draft model alone."""
    same_text: bool | None = None
    """As plain streaming of the same prompt."""
    drafts_sent: int | None = None
    drafts_verified: int | None = None
    drafts_accepted: int | None = None
    drafts_discarded: int | None = None
    """Drafted and taken back."""
    draft_bytes: int | None = None
    """Of draft frames, WebSocket headers included."""
    up_bytes: int | None = None
    """On the path, headers and retransmissions included."""
    down_bytes: int | None = None
    engine_busy_s: float | None = None
    server_cpu_s: float | None = None
    edge_cpu_s: float | None = None
    server_rss_mb: float | None = None
    edge_rss_mb: float | None = None

    @classmethod
    def of(cls, rival: Rival, answer: TimedAnswer, **fields: Any) -> Self:
        """The record of `answer`. `target_passes` in `fields` is plain streaming's: others know their own."""
        stats = answer.stats
        if rival.wire is not None and stats is not None:
            fields |= {
                "target_passes": stats.target_passes,
                "drafts_sent": stats.draft_tokens_sent,
                "drafts_verified": stats.draft_tokens_verified,
                "drafts_accepted": stats.draft_tokens_accepted,
                "drafts_discarded": stats.draft_tokens_discarded,
                "draft_bytes": stats.uplink_draft_bytes,
            }
        elif rival.policy == LOCAL:
            fields["target_passes"] = 0.0
        return cls(
            policy=rival.policy,
            wire=rival.wire,
            mode=rival.mode,
            num_tokens=answer.num_tokens,
            total_s=answer.total_s,
            ttft_s=answer.ttft_s,
            gaps_ms=[round((late - early) * 1e3, 3) for early, late in pairwise(answer.arrivals_s)],
            **fields,
        )

    @property
    def key(self) -> tuple[str, str, str | None, str | None, str]:
        """What figures are made for."""
        return self.scenario, self.policy, self.wire, self.mode, self.dataset

    @property
    def drafts_made(self) -> int:
        """Kept or taken back."""
        return (self.drafts_accepted or 0) + (self.drafts_discarded or 0)


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and on what."""

    scenario: Scenario
    draft: str
    target: str
    link: str
    probed: Probed
    num_tokens: int
    num_prompts: int
    """Of each data set, a seed."""
    num_seeds: int
    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str


class Results(msgspec.Struct, frozen=True):
    """All that a folder holds."""

    descriptions: dict[str, Description]
    records: list[RunRecord]


def with_same_text(answers: Sequence[tuple[RunRecord, str]]) -> list[RunRecord]:
    """The records of one prompt, those of drafting rivals compared with plain streaming, if that is there."""
    plain = [text for record, text in answers if record.policy == CLOUD]
    return [
        msgspec.structs.replace(record, same_text=text == plain[0]) if plain and record.wire else record
        for record, text in answers
    ]


def append_record(path: Path, record: RunRecord) -> None:
    """Written at once: a run that is cut short keeps what it has measured."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


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
    return Results(descriptions, list(_records(paths)))


def _records(paths: Iterable[Path]) -> Iterator[RunRecord]:
    for path in paths:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                yield msgspec.json.decode(line, type=RunRecord)
            except msgspec.DecodeError as error:
                raise CliError(f"Line {number} of {path} is no record of a run: {error}.") from error


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """`report`, and the machine beside it. Raises `CliError` if the file cannot be written."""
    text = json.dumps(msgspec.to_builtins({**report, "machine": machine()}), indent=2)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CliError(f"Cannot write {path} ({error.strerror}): name another file with --json.") from error
