"""Compares sequences of token ids. Pure; for both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_prefix_length"]


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """The number of leading tokens that the two share; one may be longer than the other."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
