"""Responses kept in memory, for `previous_response_id`. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError

__all__ = ["ResponseStore", "StoredResponse"]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response object, and the chat messages up to and with it (without its instructions)."""

    response: Json
    conversation: Sequence[Json]


class ResponseStore:
    """Keeps the most recently used responses, up to `max_responses` and `max_bytes` in total.

    The size of one is that of its conversation as JSON; conversations that share messages count them
    each, so this is an upper bound. Nothing outlives the process.
    """

    def __init__(self, max_responses: int = 512, max_bytes: int = 64 << 20) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._num_bytes = 0

    def put(self, stored: StoredResponse) -> None:
        """Keep `stored` under its response's id; the responses used least recently are dropped."""
        num_bytes = len(msgspec.json.encode([stored.response, stored.conversation]))
        self._entries[stored.response["id"]] = (stored, num_bytes)
        self._num_bytes += num_bytes
        while len(self._entries) > self._max_responses or self._num_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self._num_bytes -= freed

    def get(self, response_id: str) -> StoredResponse:
        """Raises `ApiError` (404)."""
        if (entry := self._entries.get(response_id)) is None:
            raise ApiError(404, f"Response with id '{response_id}' not found.", code="response_not_found")
        self._entries.move_to_end(response_id)
        return entry[0]

    def previous(self, response_id: str) -> StoredResponse:
        """As `get`, for `previous_response_id`. Raises `ApiError` (400) in OpenAI's words."""
        if response_id not in self._entries:
            raise ApiError(
                400,
                f"Previous response with id '{response_id}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return self.get(response_id)

    def delete(self, response_id: str) -> None:
        """Raises `ApiError` (404)."""
        self.get(response_id)
        _, num_bytes = self._entries.pop(response_id)
        self._num_bytes -= num_bytes
