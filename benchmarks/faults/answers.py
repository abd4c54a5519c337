"""What is asked while something fails, an answer as its reader sees it, and the judge."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec

from edge_agent.api import Fallback
from openai_gateway.chat_service import MODE_HEADER
from openai_gateway.http.streaming import read_events

__all__ = [
    "ASKS",
    "CHAT_PATH",
    "Answer",
    "Ask",
    "Expected",
    "Verdict",
    "judge",
    "read",
    "reference",
    "shared_start",
]

Json = dict[str, Any]

CHAT_PATH: Final = "/v1/chat/completions"
_DONE: Final = b"[DONE]"
_NUM_TOKENS: Final = 120
_LISTED: Final[Json] = {
    "type": "array",
    "items": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
    "minItems": 40,
    "maxItems": 40,
}
"""Longer than an answer may be, whatever a model makes of it."""
_FORM: Final[Json] = {
    "type": "object",
    "properties": {"cities": _LISTED},
    "required": ["cities"],
    "additionalProperties": False,
}
_TOOL: Final[Json] = {"type": "function", "function": {"name": "visit", "parameters": _FORM}}
_NAMED: Final[Json] = {"type": "function", "function": {"name": "visit"}}
_SCHEMA: Final[Json] = {"type": "json_schema", "json_schema": {"name": "cities", "schema": _FORM}}
_TYPED: Final = frozenset({"cloud_unreachable", "overloaded"})
"""Codes with which an answer may break off where the setting allows it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for an answer so long that it is under way when something fails."""

    name: str
    body: Mapping[str, Any]
    mode: str
    by_draft: bool = False
    """Whether the draft model alone can go on with it."""


def _ask(name: str, subject: str, mode: str, by_draft: bool = False, **fields: Any) -> Ask:
    messages = [{"role": "user", "content": f"Tell me about the history of {subject} in five sentences."}]
    drawn = (
        {"temperature": 1.0, "top_p": 0.95, "seed": 17} if fields.pop("drawn", False) else {"temperature": 0}
    )
    body = {"messages": messages, "max_tokens": _NUM_TOKENS, **drawn, **fields}
    return Ask(name, body, mode, by_draft)


ASKS: Final = (
    _ask("T=0", "bread", "auto", by_draft=True, ignore_eos=True),
    _ask("T=1", "clocks", "latency", by_draft=True, ignore_eos=True, drawn=True),
    _ask("schema", "bridges", "offload", response_format=_SCHEMA),
    _ask("tools", "glass", "balanced", tools=[_TOOL], tool_choice=_NAMED),
    _ask("n=2", "maps", "offload", ignore_eos=True, drawn=True, n=2),
    _ask("T=0 offload", "paper", "offload", by_draft=True, ignore_eos=True),
)
"""A chat's request is the next of these, round and round."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The target's own answer."""

    texts: tuple[str, ...]
    """Of each choice: content, then each call as `name(arguments)`."""
    num_tokens: int
    """In all choices."""


@dataclass(slots=True)
class Answer:
    """What has come so far. Times in seconds on the reader's clock."""

    started_s: float = 0.0
    ended_s: float | None = None
    texts: dict[int, str] = field(default_factory=dict)
    """Of each choice, as in `Expected`, as far as it is verified."""
    unverified: str = ""
    num_pieces: int = 0
    last_piece_s: float | None = None
    longest_gap_s: float = 0.0
    """Between two pieces of text."""
    finished: set[int] = field(default_factory=set)
    num_tokens: int | None = None
    """As the usage says."""
    is_done: bool = False
    error_code: str | None = None
    """Of an error in the API's shape."""
    broken: str | None = None
    """Any other end: what the client's library says of a connection that was lost."""

    @property
    def is_over(self) -> bool:
        return self.ended_s is not None

    @property
    def total_s(self) -> float:
        assert self.ended_s is not None
        return self.ended_s - self.started_s

    def add(self, chunk: Json, now_s: float) -> None:
        """A chunk of the stream."""
        if "error" in chunk:
            self.error_code = str((chunk["error"] or {}).get("code"))
            return
        verified = (chunk.get("pipesd") or {}).get("verified", True)
        self.num_tokens = (chunk.get("usage") or {}).get("completion_tokens", self.num_tokens)
        for choice in chunk.get("choices", ()):
            index, text = choice["index"], _said(choice.get("delta") or {})
            self.texts.setdefault(index, "")
            if verified:
                self.texts[index] += text
            else:
                self.unverified += text
            if text:
                self.num_pieces += 1
                if self.last_piece_s is not None:
                    self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_piece_s)
                self.last_piece_s = now_s
            if choice.get("finish_reason"):
                self.finished.add(index)


def _said(message: Json) -> str:
    said = message.get("content") or ""
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        if name := function.get("name"):
            said += f"{name}("
        said += function.get("arguments") or ""
    return said


def reference(body: Json) -> Expected:
    """What a whole answer of the server's own API says."""
    choices = sorted(body["choices"], key=lambda choice: choice["index"])
    return Expected(tuple(_said(choice["message"]) for choice in choices), body["usage"]["completion_tokens"])


async def read(
    client: httpx.AsyncClient,
    ask: Ask,
    model: str,
    answer: Answer,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask for a stream and read it into `answer` to its end, whatever end that is."""
    body = {"model": model, **ask.body, "stream": True, "stream_options": {"include_usage": True}}
    answer.started_s = clock()
    try:
        async with client.stream(
            "POST", CHAT_PATH, content=msgspec.json.encode(body), headers={MODE_HEADER: ask.mode}
        ) as response:
            if response.is_error:
                answer.add(msgspec.json.decode(await response.aread()), clock())
                return
            async for data in read_events(response.aiter_raw()):
                if data == _DONE:
                    answer.is_done = True
                else:
                    answer.add(msgspec.json.decode(data), clock())
    except (httpx.HTTPError, msgspec.DecodeError) as error:
        answer.broken = repr(error)
    finally:
        answer.ended_s = clock()


class Verdict(enum.StrEnum):
    """What came of an answer. All but the first two are findings."""

    WHOLE = "whole"
    ALLOWED = "allowed"
    """It ends early, as the setting or the fault says that it may: in a typed error, or marked."""
    DIFFERING = "differing"
    """A text that is not the target's own."""
    LOST = "lost"
    """A piece passed over; an end that is too early; an answer that never ended."""
    DOUBLED = "doubled"
    UNTYPED = "untyped"
    """It ends in an error that is none of the API's own."""


def judge(
    ask: Ask, answer: Answer, expected: Expected, fallback: Fallback, *, line_lost: bool = False
) -> Verdict:
    """`line_lost`: the fault takes the client's own connection, so that any part of the answer is allowed."""
    got = tuple(answer.texts.get(index, "") for index in range(len(expected.texts)))
    if set(answer.texts) - set(range(len(expected.texts))):
        return Verdict.DIFFERING
    for said, whole in zip(got, expected.texts, strict=True):
        if (part := _parts(said, whole)) is not None:
            return part
    if answer.ended_s is None:
        return Verdict.LOST
    if answer.is_done and got == expected.texts and not answer.unverified:
        if answer.num_tokens == expected.num_tokens:
            return Verdict.WHOLE
        return Verdict.DOUBLED if (answer.num_tokens or 0) > expected.num_tokens else Verdict.LOST
    if line_lost and not answer.is_done:
        return Verdict.ALLOWED
    if answer.broken is not None or (answer.error_code is not None and answer.error_code not in _TYPED):
        return Verdict.UNTYPED
    if answer.error_code is not None:
        may_break_off = fallback is Fallback.ERROR or (fallback is Fallback.LOCAL and not ask.by_draft)
        return Verdict.ALLOWED if may_break_off else Verdict.LOST
    if fallback is Fallback.LOCAL and answer.is_done and answer.unverified and answer.finished:
        return Verdict.ALLOWED
    return Verdict.LOST


def shared_start(one: str, other: str) -> int:
    """How many characters two texts share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (own, others) in pairs if own != others), min(len(one), len(other)))


def _parts(said: str, whole: str) -> Verdict | None:
    """How `said` parts from `whole`; None if it is its beginning."""
    if whole.startswith(said):
        return None
    place = shared_start(said, whole)
    rest = said[place : place + 12]  # long enough to be at one place alone
    if rest in whole[place:]:
        return Verdict.LOST
    return Verdict.DOUBLED if rest in whole else Verdict.DIFFERING
