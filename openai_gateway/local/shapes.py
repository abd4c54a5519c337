"""Response bodies in OpenAI's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_agent.api import FinishReason
from openai_gateway.chat_service import Json, fingerprint

__all__ = [
    "ChatShape",
    "CompletionShape",
    "Envelope",
    "Shape",
    "model_card",
]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all bodies of one answer share. `created_s` is a Unix time.

    With the same request and `seed`, if there is one, the text can be generated again.
    """

    answer_id: str
    model: str
    created_s: int
    seed: int | None = None

    def wrap(self, object_name: str, choices: list[Json]) -> Json:
        """A body."""
        return {
            "id": self.answer_id,
            "object": object_name,
            "created": self.created_s,
            "model": self.model,
            **fingerprint(self.seed),
            "choices": choices,
        }


class Shape(Protocol):
    """How one endpoint lays out its choices."""

    @property
    def id_prefix(self) -> str: ...
    @property
    def whole_object(self) -> str: ...
    @property
    def chunk_object(self) -> str: ...

    def whole(self, text: str, finish_reason: FinishReason) -> Json:
        """The choice of an answer that is not streamed."""
        ...

    def opening(self) -> Json | None:
        """The choice of the stream's first chunk, sent before there is any text."""
        ...

    def text(self, text: str) -> Json:
        """The choice of a chunk with more text."""
        ...

    def finish(self, finish_reason: FinishReason) -> Json:
        """The choice of the last chunk."""
        ...


class ChatShape:
    """/v1/chat/completions."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, text: str, finish_reason: FinishReason) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def opening(self) -> Json:
        return self._delta({"role": "assistant", "content": ""})

    def text(self, text: str) -> Json:
        return self._delta({"content": text})

    def finish(self, finish_reason: FinishReason) -> Json:
        return self._delta({}, finish_reason)

    def _delta(self, delta: Json, finish_reason: FinishReason | None = None) -> Json:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


class CompletionShape:
    """/v1/completions."""

    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, text: str, finish_reason: FinishReason | None) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def opening(self) -> None:
        return None

    def text(self, text: str) -> Json:
        return self.whole(text, None)

    def finish(self, finish_reason: FinishReason) -> Json:
        return self.whole("", finish_reason)


def model_card(name: str, max_model_len: int, created_s: int) -> Json:
    """A model in /v1/models; `max_model_len` is the context in tokens, prompt and answer."""
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "pipesd",
        "max_model_len": max_model_len,
    }
