"""An answer of vLLM's API, plain or through an `Ask`, in a form in which two of them can be compared."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

from pipesd_vllm.wire import (
    Begun,
    Commit,
    CommittedStream,
    Downstream,
    Inflater,
    Reply,
    Resume,
    Text,
    TokenLogprobs,
)

__all__ = ["Answer", "StreamSeen", "assert_close"]

_RANDOM = re.compile(r'chatcmpl-tool-\w+|(?<="id":")[A-Za-z0-9]{9}(?=")')
"""Ids of tool calls, Mistral's among them."""


class StreamSeen:
    """What was committed of one stream. Checks that every frame continues the one before."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: Any = None
        self.stop_reason: int | None = None
        self.accepted = 0

    def add(self, commit: Commit) -> None:
        end = self.base + len(self.tokens)
        assert commit.base == end or (commit.base < end and not commit.tokens)
        assert self.finish_reason is None
        self.tokens += commit.tokens
        self.logprobs += commit.logprobs or []
        self.finish_reason, self.stop_reason = commit.finish_reason, commit.stop_reason
        self.accepted += commit.accepted

    def resumable(self) -> CommittedStream:
        logprobs = self.logprobs or None
        return CommittedStream(list(self.tokens), logprobs, self.finish_reason, self.stop_reason)


class Answer:
    """Status, headers and body; and of an `Ask` the frames that came beside them."""

    def __init__(self, status: int = 0, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers or {}
        self.body = body
        self.begun: list[Begun] = []
        self.streams: dict[int, StreamSeen] = {}
        self.is_whole = False
        self.num_bytes = 0
        self._inflater = Inflater()
        self._resumed: list[CommittedStream] = []

    def resumes(self, resume: Resume) -> None:
        """What comes continues what `resume` says."""
        self._resumed = resume.streams

    def add(self, frame: Downstream) -> None:
        match frame:
            case Begun():
                self.begun.append(frame)
                for place in range(len(frame.seeds)):
                    stream = frame.first + place
                    held = self._resumed[stream].tokens if stream < len(self._resumed) else []
                    self.streams[stream] = StreamSeen(len(frame.prompt) + len(held))
            case Commit():
                self.streams[frame.stream].add(frame)
            case Reply():
                assert not self.status
                self.status, self.headers = frame.status, dict(frame.headers)
            case Text():
                assert self.status
                self.body += self._inflater.add(frame.data)
                self.num_bytes += len(frame.data)
                self.is_whole = frame.last
            case _:
                raise AssertionError(frame)

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def events(self) -> list[Any]:
        """Those of a streamed answer, parsed, without what differs from one answer to another."""
        assert self.body == b"" or self.body.endswith(b"\n\n")
        texts = [_RANDOM.sub("TOOL", event) for event in self.body.decode().split("\n\n") if event]
        assert all(text.startswith("data: ") for text in texts)
        return [_plain(text.removeprefix("data: ")) for text in texts]

    def by_choice(self) -> dict[Any, list[Any]]:
        """The events of each choice in their order, and those of none."""
        found = defaultdict(list)
        for event in self.events():
            choices = event.get("choices") if isinstance(event, dict) else None
            found[choices[0]["index"] if choices else None].append(event)
        return dict(found)

    def whole(self) -> Any:
        """The parsed body of one that is not streamed."""
        return _plain(_RANDOM.sub("TOOL", self.body.decode()))

    def comparable(self) -> Any:
        """What must be equal however the tokens were cut into chunks."""
        return (self.status, _assembled(self.events()) if self.is_stream else self.whole())


def _plain(text: str) -> Any:
    if text == "[DONE]":
        return text
    value = json.loads(text)
    if isinstance(value, dict):
        value.pop("created", None)
        value.pop("id", None)
    return value


def _assembled(events: list[Any]) -> Any:
    choices: dict[int, dict[str, Any]] = {}
    rest = []
    for event in events:
        if not isinstance(event, dict) or not event.get("choices"):
            rest.append(event)
            continue
        for choice in event["choices"]:
            _merge(choices.setdefault(choice.pop("index"), {}), choice)
    return choices, rest


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        held = into.get(name)
        if name == "tool_calls":
            calls = into.setdefault(name, {})
            for call in value or ():
                _merge(calls.setdefault(call.pop("index"), {}), call)
        elif isinstance(value, dict):
            into[name] = held or {}
            _merge(into[name], value)
        elif isinstance(value, list):
            into[name] = (held or []) + value
        elif isinstance(value, str) and name not in ("role", "type", "id", "finish_reason"):
            into[name] = (held or "") + value
        elif value is not None or name not in into:
            into[name] = value


def assert_close(got: Any, want: Any, tolerance: float = 1e-3) -> None:
    """Equal, numbers within `tolerance`: rows verified beside others move the last digits."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name], tolerance)
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_close(one, other, tolerance)
    elif isinstance(want, float):
        assert abs(got - want) <= tolerance, (got, want)
    else:
        assert got == want, (got, want)
