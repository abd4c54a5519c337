"""From committed tokens to the text a client sees: detokenising, stop strings, finish reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge_agent.api import FinishReason
from openai_gateway.local.text.detokenizer import Detokenizer
from openai_gateway.local.text.stops import StopScanner

__all__ = ["Piece", "Transcript"]


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
