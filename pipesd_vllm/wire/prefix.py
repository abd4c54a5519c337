"""How far two sequences of token ids agree. Pure; for both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_prefix_length"]


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens they have in common from the start; one may be longer than the other."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
