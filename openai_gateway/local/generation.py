"""One running generation, as text."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edge_agent.api import FinishReason, GenerationChunk, GenerationStats
from edge_agent.errors import CloudMisbehaved
from openai_gateway.errors import translate
from openai_gateway.local.pump import Pump
from openai_gateway.local.text.transcript import Transcript

__all__ = ["Generation", "Part"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """More text (possibly none), of `num_tokens` tokens, and, in the last part, the finish reason.

    `verified`: all of it is the target's own.
    """

    text: str
    finish_reason: FinishReason | None
    verified: bool = True
    num_tokens: int = 0


class Generation:
    """A running generation, read as parts of text. Must be closed with `aclose`.

    `stats` are the agent's figures as of the last part. All failures are raised as `ApiError`.
    """

    def __init__(
        self,
        chunks: AsyncIterator[GenerationChunk],
        transcript: Transcript,
        num_prompt_tokens: int,
    ) -> None:
        self._pump = Pump(chunks)
        self._transcript = transcript
        self._num_told = 0
        self.num_prompt_tokens = num_prompt_tokens
        self.stats = GenerationStats()

    @property
    def num_completion_tokens(self) -> int:
        """Number of tokens of the text so far, including the one that ended it."""
        return self._transcript.num_tokens

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._transcript.stop_string

    async def opened(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the first chunk; true, and `stats` are set, if it came.

        Raises `ApiError` if the generation failed before it.
        """
        try:
            first = await self._pump.peek(timeout_s)
        except Exception as error:
            raise translate(error) from error
        if first is not None:
            self.stats = first.stats
        return first is not None

    async def parts(self) -> AsyncIterator[Part]:
        """One part for each chunk that has text; the last, and only the last, has a finish reason.

        The generation is ended as soon as a stop string is complete. Raises `ApiError` if it fails.
        """
        try:
            async for chunk in self._pump:
                self.stats = chunk.stats
                piece = self._transcript.push(chunk.token_ids, chunk.finish_reason)
                if piece.finish_reason is not None and chunk.finish_reason is None:
                    self._pump.cancel()  # a stop string: the generation itself would go on
                if piece.text or piece.finish_reason is not None:
                    num_tokens = self._transcript.num_tokens - self._num_told
                    self._num_told += num_tokens
                    yield Part(piece.text, piece.finish_reason, chunk.verified, num_tokens)
                if piece.finish_reason is not None:
                    return
            raise CloudMisbehaved("the generation ended without a finish reason")
        except Exception as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        """End the generation, if it still runs, on both sides. Idempotent."""
        await self._pump.aclose()
