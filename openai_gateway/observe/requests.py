"""What metrics and logs get of a finished request: never its text, never a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = ["CLIENT_GONE", "UNROUTED", "Finished", "RequestObserver"]

CLIENT_GONE: Final = 499
"""nginx's status for a client that closed the connection."""
UNROUTED: Final = "none"
"""Route of a request that was refused before one was chosen."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One request that has ended. Times in ms; None: unknown, or not measured on its route."""

    endpoint: str
    status: int
    """A stream that failed half way has its error's status here."""
    duration_ms: float
    streamed: bool
    model: str | None = None
    request_id: str | None = None
    key_label: str | None = None
    answer_id: str | None = None
    """Of its body, such as `chatcmpl-...`."""
    route: str = UNROUTED
    reason: str | None = None
    """Why this route was chosen; the error's code if the request failed before that."""
    error_code: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    stats: Mapping[str, Any] = field(default_factory=dict)
    """The answer's `pipesd` object (`pipesd_stats`); empty without an answer."""


class RequestObserver(Protocol):
    """Gets every request that generates text. Must be quick and must not raise."""

    def started(self) -> None:
        """A request came in."""
        ...

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        """A stream's next piece of text came `elapsed_s` after the piece before."""
        ...

    def finished(self, request: Finished) -> None:
        """It has ended; once for each `started`."""
        ...
