"""Drafts that no target has verified yet, as text: for clients that ask for them (`x-pipesd-drafts`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from edge_agent.api import GenerationStats
from openai_gateway.chat_service import Json
from openai_gateway.local import TargetText, pipesd_stats

__all__ = ["ProvisionalText"]

_CONTEXT: Final = 6
"""Tokens before the drafts that are decoded along, for a tokenizer whose first word loses its space."""
_FIGURES_S: Final = 0.1
"""Least time between two chunks that tell the figures."""


class ProvisionalText:
    """The drafts of one stream, after the text that the client has been given.

    A chunk of its own says what follows that text for now, and replaces what the one before said. A token
    counts as given when the client has its text, so that nothing disappears between its commit and its text.
    """

    def __init__(self, load: Callable[[], Awaitable[TargetText]], clock: Callable[[], float]) -> None:
        """`load` gives the target's tokenizer; no answer waits for it. `clock` in seconds."""
        self._loading = asyncio.ensure_future(load())
        self._clock = clock
        self._given: deque[int] = deque(maxlen=_CONTEXT)
        self._pending: deque[int] = deque()
        """Committed, but the client does not have their text yet."""
        self._drafts: Sequence[int] = ()
        self._text = ""
        self._told_s: float | None = None

    def committed(self, token_ids: Sequence[int]) -> None:
        """The target's own next tokens; their text will come."""
        self._pending.extend(token_ids)

    def given(self, num_tokens: int) -> None:
        """The client has the text of so many more tokens."""
        for _ in range(min(num_tokens, len(self._pending))):
            self._given.append(self._pending.popleft())

    def drafted(self, token_ids: Sequence[int]) -> None:
        """All drafts after the last committed token."""
        self._drafts = token_ids

    def chunk(self, envelope: Json, stats: GenerationStats) -> Json | None:
        """What to tell the client now, if there is something new. `envelope`: a chunk of the stream."""
        text, now_s = self._decoded(), self._clock()
        are_figures_due = self._told_s is None or now_s - self._told_s >= _FIGURES_S
        if text == self._text and not are_figures_due:
            return None
        self._text = text
        told: dict[str, Any] = {"provisional": {"text": text, "tokens": len(self._drafts)}}
        if are_figures_due:
            self._told_s = now_s
            told = {**pipesd_stats(stats), **told}
        return {**envelope, "choices": [], "pipesd": told}

    def _decoded(self) -> str:
        if not self._loading.done() or self._loading.cancelled() or self._loading.exception() is not None:
            return ""
        detokenizer = self._loading.result().detokenizer(tuple(self._given))
        return detokenizer.push((*self._pending, *self._drafts))

    def close(self) -> None:
        """Nothing more will be asked. Idempotent."""
        if not self._loading.done():
            self._loading.cancel()
        elif not self._loading.cancelled():
            self._loading.exception()  # was seen; an answer does not fail for it
