"""Turning a growing list of token ids into text, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

__all__ = ["REPLACEMENT", "Detokenizer"]

REPLACEMENT = "\ufffd"
"""What a tokenizer decodes bytes to that are no whole character."""
NUM_PROMPT_TOKENS = 6
"""How much of the prompt is decoded along: enough for a tokenizer whose first word loses its space."""


class Detokenizer:
    """Incremental decoding that never splits a character.

    Decodes a short window that starts at a place where the text was complete and shows what
    has been added to it (the prefix and read offsets of Hugging Face's text streamer). Text that
    ends in U+FFFD may be an unfinished character and is held back until it is finished, or
    `flush`ed. The pieces together are `decode(prompt tail + tokens)` without the tail's own text.

    `decode` maps token ids to text; ids in `skip` (special tokens) have none.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        skip: Collection[int] = frozenset(),
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._skip = skip
        self._window = self._visible(prompt_token_ids[-NUM_PROMPT_TOKENS:])
        self._num_settled = len(self._window)
        self._num_shown = len(decode(self._window).rstrip(REPLACEMENT))

    def push(self, token_ids: Sequence[int]) -> str:
        """Append `token_ids`; returns the text that is now complete and was not yet returned."""
        new = self._visible(token_ids)
        if not new:
            return ""
        self._window += new
        text = self._decode(self._window)
        num_complete = len(text.rstrip(REPLACEMENT))
        piece = text[self._num_shown : num_complete]
        if num_complete == len(text):
            self._settle()
        else:
            self._num_shown = max(self._num_shown, num_complete)
        return piece

    def flush(self) -> str:
        """The text held back, unfinished characters as U+FFFD. Nothing may be pushed after it."""
        text = self._decode(self._window)
        piece = text[self._num_shown :]
        self._num_shown = len(text)
        return piece

    def _settle(self) -> None:
        """Start the window where the text was complete before; the tokens since then are its context."""
        self._window = self._window[self._num_settled :]
        self._num_settled = len(self._window)
        self._num_shown = len(self._decode(self._window))

    def _visible(self, token_ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in token_ids if token_id not in self._skip]
