"""One generation with all that was measured about it, as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from openai_gateway.cli.errors import CliError

__all__ = ["Drafting", "Resources", "RunRecord", "append_record", "as_json", "read_records"]


class Drafting(msgspec.Struct, frozen=True):
    """Counts of a collaborative generation."""

    sent: int = 0
    verified: int = 0
    accepted: int = 0
    discarded: int = 0
    """Drafted and taken back."""
    num_nav: int = 0
    """Target passes that checked drafts."""


class Resources(msgspec.Struct, frozen=True):
    """What a generation used, on both sides. None: not measured."""

    up_bytes: int | None = None
    """On the path, headers and retransmissions included."""
    down_bytes: int | None = None
    engine_busy_s: float | None = None
    server_cpu_s: float | None = None
    edge_cpu_s: float | None = None
    server_rss_mb: float | None = None
    edge_rss_mb: float | None = None
    energy_j: float | None = None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds from the request to the client's last token; `gaps_ms` between deliveries."""

    scenario: str
    seed: int
    dataset: str
    prompt: str
    policy: str
    wire: str | None
    mode: str | None
    num_tokens: int
    total_s: float
    ttft_s: float
    gaps_ms: list[float]
    target_passes: float
    """0 for the draft model alone."""
    same_text: bool | None = None
    """As plain streaming of the same prompt; None where that is not asked or not known."""
    drafting: Drafting | None = None
    resources: Resources = Resources()

    @property
    def key(self) -> tuple[str, str, str | None, str | None, str]:
        """What figures are made for."""
        return self.scenario, self.policy, self.wire, self.mode, self.dataset


def append_record(path: Path, record: RunRecord) -> None:
    """Written at once: a run that is cut short keeps what it has measured."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def read_records(paths: Iterable[Path]) -> list[RunRecord]:
    """Raises `CliError` for a line that is no record."""
    return [record for path in paths for record in _read(path)]


def _read(path: Path) -> Iterator[RunRecord]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield msgspec.json.decode(line, type=RunRecord)
        except msgspec.DecodeError as error:
            raise CliError(f"Line {number} of {path} is no record of a run: {error}.") from error


def as_json(value: Any) -> bytes:
    """Readable JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
