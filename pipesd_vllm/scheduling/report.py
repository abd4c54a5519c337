"""What the scheduler reports back about a session's target passes, with every output."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final

REPORT_KEY: Final = "pipesd"


@dataclass(slots=True)
class PassReport:
    """Totals since the session began, so that a merged or lost output loses no count.

    `queue_ms` and `step_ms` are those of the last pass: how long released drafts waited
    for it to start, and how long it took from scheduling to its result. `own_ms` is what the
    scheduler's hooks took since the report before.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    queue_ms: float = 0.0
    step_ms: float = 0.0
    own_ms: float = 0.0

    def pack(self) -> dict[str, Any]:
        """As the free-form dictionary of an engine output."""
        return {REPORT_KEY: list(astuple(self))}

    @staticmethod
    def unpack(params: dict[str, Any] | None) -> PassReport | None:
        packed = (params or {}).get(REPORT_KEY)
        return None if packed is None else PassReport(*packed)
