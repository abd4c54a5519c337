"""The seam between the session loop and whatever model drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.sampling import DraftToken, TokenPicker
from pipesd_vllm.wire import Fingerprint


@dataclass(frozen=True, slots=True)
class DraftModelInfo:
    """What is known of a loaded draft model. `context_length` is in tokens, per sequence."""

    name: str
    num_tokens: int
    context_length: int
    max_sequences: int


class Drafter(Protocol):
    """A draft model that holds several token sequences at once.

    Not thread-safe: one thread owns it. A sequence is a list of token ids of which a prefix
    has been evaluated; `draft` evaluates the rest and appends a next token: the one that the
    sequence's picker picks.
    """

    @property
    def info(self) -> DraftModelInfo: ...

    def vocabulary(self) -> Sequence[str]:
        """The token strings in id order, as they are stored in the model's file."""
        ...

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        """Fingerprint of the first `num_tokens` vocabulary entries (all, if there are fewer)."""
        ...

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        """Start a sequence with `tokens`, reusing the longest evaluated prefix of a closed one.

        `picker` belongs to the sequence from now on; None picks greedily. Returns its handle.
        Raises `DraftCapacityError` if no sequence is free or `tokens` do not fit.
        """
        ...

    def rewrite(self, sequence: int, length: int, tokens: Sequence[int]) -> None:
        """Keep the first `length` tokens, drop the rest exactly, append `tokens`.

        Raises `DraftCapacityError` if the result does not fit; the sequence is then unchanged.
        """
        ...

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        """One model call over all `sequences`: evaluate what is pending, append one token each.

        A sequence whose pending tokens did not all fit into this call is missing from the
        result; call again. A sequence that has no room for a token is missing, too
        (`room` tells the two apart).
        """
        ...

    def room(self, sequence: int) -> int:
        """How many more tokens the sequence can hold."""
        ...

    def close_sequence(self, sequence: int) -> None:
        """Release the handle; its evaluated prefix stays reusable until the room is needed."""
        ...

    def request_abort(self) -> None:
        """From any thread: make the running `draft` (or else the next one) return early with nothing.

        What it was evaluating stays pending; no sequence changes. A request that the running call is too
        far on to follow may end with it.
        """
        ...

    def close(self) -> None:
        """Free the model. Idempotent."""
        ...
