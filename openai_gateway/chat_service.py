"""The seam below the APIs: a request body in OpenAI's shape in, an answer in OpenAI's shape out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from edge_agent.api import Route, SessionMode
from edge_agent.control import POLICY_NAMES
from openai_gateway.errors import InvalidRequest

__all__ = [
    "DRAFTS_HEADER",
    "MODE_HEADER",
    "POLICY_HEADER",
    "PROVENANCE_HEADER",
    "SEED_HEADER",
    "Answer",
    "ChatService",
    "Json",
    "RouteChoice",
    "SessionOptions",
    "StreamedAnswer",
    "WholeAnswer",
    "fingerprint",
    "route_header",
    "seed_header",
    "session_options",
]

Json = dict[str, Any]

MODE_HEADER: Final = "x-pipesd-mode"
POLICY_HEADER: Final = "x-pipesd-policy"
PROVENANCE_HEADER: Final = "x-pipesd-provenance"
DRAFTS_HEADER: Final = "x-pipesd-drafts"
SEED_HEADER: Final = "x-pipesd-seed"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """A request's choices for which OpenAI's API has no field; None: the agent's setting."""

    mode: SessionMode | None = None
    policy: str | None = None
    provenance: bool = False
    """Whether each streamed piece says who wrote it."""
    drafts: bool = False
    """Whether a stream shows drafts that are not verified yet, and its figures so far."""


def session_options(headers: Mapping[str, str]) -> SessionOptions:
    """Read the request's headers. Raises `InvalidRequest` for a value that does not exist."""
    mode, policy = headers.get(MODE_HEADER), headers.get(POLICY_HEADER)
    return SessionOptions(
        mode=None if mode is None else SessionMode(_one_of(MODE_HEADER, mode, [str(m) for m in SessionMode])),
        policy=None if policy is None else _one_of(POLICY_HEADER, policy, POLICY_NAMES),
        provenance=_one_of(PROVENANCE_HEADER, headers.get(PROVENANCE_HEADER, "0"), ("0", "1")) == "1",
        drafts=_one_of(DRAFTS_HEADER, headers.get(DRAFTS_HEADER, "0"), ("0", "1")) == "1",
    )


def _one_of(header: str, value: str, choices: tuple[str, ...] | list[str]) -> str:
    if value not in choices:
        message = f"The header {header} is {value!r}; choose one of {', '.join(choices)}."
        raise InvalidRequest(message, param=header, code="invalid_value")
    return value


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """The route that answers a request, and why; `causes` are the parameters that need the server."""

    route: Route
    reason: str
    causes: tuple[str, ...] = ()


def route_header(route: Route, reason: str) -> Mapping[str, str]:
    """`x-pipesd-route: ROUTE; reason=WHY`, on one printable line."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in reason)
    return {"x-pipesd-route": f"{route}; reason={printable}"}


def seed_header(seed: int | None) -> dict[str, str]:
    """The response header that says which seed the text was sampled with; none for a greedy text."""
    return {} if seed is None else {SEED_HEADER: str(seed)}


def fingerprint(seed: int | None) -> Json:
    """OpenAI's `system_fingerprint`: what a text depends on besides the request, which is the seed."""
    return {} if seed is None else {"system_fingerprint": f"seed-{seed}"}


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A `chat.completion` body (with the extensions `pipesd` and `timings`) and our response headers."""

    body: Json
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An answer that comes in pieces. Whoever holds it must call `aclose`, however it ended.

    `chunks` gives `chat.completion.chunk` bodies: first one with the role, then deltas, one with a finish
    reason, and with `stream_options.include_usage` one with `choices: []` and the usage. It raises
    `ApiError` if the answer cannot go on. `close` ends the generation, wherever it runs; idempotent.
    """

    headers: Mapping[str, str]
    chunks: AsyncIterator[Json]
    close: Callable[[], Awaitable[None]]

    async def aclose(self) -> None:
        """End the generation, if it still runs. Idempotent."""
        await self.close()


Answer = WholeAnswer | StreamedAnswer


class ChatService(Protocol):
    """Answers chat requests."""

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """Answer `body`, a decoded request of POST /v1/chat/completions, which is not changed.

        With `body["stream"]` the answer is a `StreamedAnswer`, returned as soon as it has begun, or has taken
        so long that headers should be sent; otherwise a `WholeAnswer`, and cancelling the call ends the
        generation. Raises `ApiError` or `EdgeError` while nothing has been answered yet.
        """
        ...
