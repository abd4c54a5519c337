"""From committed tokens to the text a client sees: detokenising, stop strings, finish reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge_agent.api import FinishReason
from openai_gateway.local.text.detokenizer import Detokenizer

__all__ = ["Piece", "StopScanner", "Transcript"]


@dataclass(frozen=True, slots=True)
class Piece:
    """More text (maybe none) and, with the last piece, why it ended."""

    text: str
    finish_reason: FinishReason | None


class Transcript:
    """The text of one generation. `num_tokens` counts the tokens up to where the text ends.

    With stop strings, tokens after the one that completes a stop string do not count, so text
    and count do not depend on how the tokens were cut into chunks. One that is complete with the first
    `min_tokens` tokens ends nothing (as in vLLM's detokeniser). A token of `end_token_ids` that
    ends the generation counts but has no text.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopScanner,
        end_token_ids: Collection[int] = frozenset(),
        *,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._end_token_ids = end_token_ids
        self._min_tokens = min_tokens
        self.num_tokens = 0

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stops.found

    def push(self, token_ids: Sequence[int], finish_reason: FinishReason | None) -> Piece:
        """Append committed tokens. Nothing may be pushed after a piece with a finish reason."""
        visible = self._without_end_token(token_ids, finish_reason)
        text, stopped = self._scan(visible)
        if stopped:
            return Piece(text, FinishReason.STOP)
        self.num_tokens += len(token_ids) - len(visible)
        if finish_reason is None:
            return Piece(text, None)
        may_stop = self.num_tokens > self._min_tokens
        rest, stopped = self._stops.push(self._detokenizer.flush(), may_stop=may_stop)
        text += rest + self._stops.flush()
        return Piece(text, FinishReason.STOP if stopped else finish_reason)

    def _without_end_token(
        self, token_ids: Sequence[int], finish_reason: FinishReason | None
    ) -> Sequence[int]:
        ended = finish_reason is FinishReason.STOP and token_ids and token_ids[-1] in self._end_token_ids
        return token_ids[:-1] if ended else token_ids

    def _scan(self, token_ids: Sequence[int]) -> tuple[str, bool]:
        """The text of `token_ids` as far as it may be shown, and whether a stop string ended it."""
        if not self._stops:
            self.num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids), False
        shown = ""
        for token_id in token_ids:
            self.num_tokens += 1
            may_stop = self.num_tokens > self._min_tokens
            text, stopped = self._stops.push(self._detokenizer.push((token_id,)), may_stop=may_stop)
            shown += text
            if stopped:
                return shown, True
        return shown, False


class _Pattern:
    """One stop string and how much of it the text read so far ends with.

    Knuth, Morris and Pratt (1977): amortised constant work a character, whatever the string.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallback = _fallbacks(text)

    @property
    def num_begun(self) -> int:
        """How much of a hit still to come the text read so far ends with."""
        is_whole = self.num_matched == len(self.text)
        return self._fallback[-1] if is_whole else self.num_matched

    def feed(self, character: str) -> bool:
        """Read one character; true when the text now ends with the whole string."""
        matched = self.num_begun
        while matched and self.text[matched] != character:
            matched = self._fallback[matched - 1]
        if self.text[matched] == character:
            matched += 1
        self.num_matched = matched
        return matched == len(self.text)


def _fallbacks(text: str) -> list[int]:
    """For each prefix, the length of its longest proper suffix that is also a prefix of `text`."""
    table = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = table[length - 1]
        if text[index] == text[length]:
            length += 1
        table[index] = length
    return table


class StopScanner:
    """Passes text through until the first stop string is complete.

    Holds back only the end of the text that could still become a stop string. "First" is the
    stop string that ends first (the longest of those that end together), so the result does
    not depend on how the text is cut into pieces. Stop strings must not be empty. `found` is that string,
    once it is complete.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._patterns = [_Pattern(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """Read `text`; returns what may be shown and whether a stop string was found.

        The stop string and what follows it are not shown. Must not be called after a hit. Without
        `may_stop` a stop string that ends in `text` is no hit.
        """
        held = self._held + text
        for index, character in enumerate(text, len(self._held)):
            hits = [pattern.text for pattern in self._patterns if pattern.feed(character)]
            if hits and may_stop:
                self._held = ""
                self.found = max(hits, key=len)
                return held[: index + 1 - len(self.found)], True
        num_held = max((pattern.num_begun for pattern in self._patterns), default=0)
        shown = len(held) - num_held
        self._held = held[shown:]
        return held[:shown], False

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held
