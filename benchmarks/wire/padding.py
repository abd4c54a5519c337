"""The published wire: every draft token travels with its distribution, the bytes really sent.

The public reproduction packs 32,256 float64 in msgpack, 9 bytes each. Here as many bytes go before the
draft frame on the same connection, so that the frame arrives after them. Pure.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PUBLISHED_TOKEN_BYTES", "is_padding", "padding_frame", "probe_tokens"]

PUBLISHED_TOKEN_BYTES: Final = 9 * 32_256
"""Bytes a draft token, in addition to the frame that carries its id."""
_MARK: Final = b"\xc1"  # the one byte that msgpack never uses
_PROBE_HEADER_BYTES: Final = 12
_PROBE_TOKEN_BYTES: Final = 3


def padding_frame(num_tokens: int = 1) -> bytes:
    """What the distributions of `num_tokens` draft tokens weigh."""
    return _MARK * (num_tokens * PUBLISHED_TOKEN_BYTES)


def is_padding(message: str | bytes) -> bool:
    """Whether the far side drops `message` instead of passing it on."""
    return message[:1] == _MARK


def probe_tokens(num_bytes: int) -> int:
    """How many draft tokens a ping of `num_bytes` stands for (edge_agent/probing.py); 0 for an empty one."""
    return max(0, num_bytes - _PROBE_HEADER_BYTES) // _PROBE_TOKEN_BYTES
