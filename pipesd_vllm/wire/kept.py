"""What an `Ask` need not say again. Pure; for both sides of the wire.

The next turn of a conversation is the body of the last one with something new in its midst: before it stand
the messages so far, behind it tools and parameters. Only that travels, if the same connection carries it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from pipesd_vllm.wire.protocol import Ask, Kept, ProtocolError

__all__ = ["MAX_KEPT_BYTES", "in_full", "said_since", "to_keep"]

MAX_KEPT_BYTES: Final = 1 << 20
"""Longest body that both sides keep for the next one: what a connection costs the server's memory."""
_WORTH_BYTES: Final = 64
"""Less is not left out: `Kept` takes some, too."""
_DIGEST_BYTES: Final = 8


def to_keep(ask: Ask) -> bytes:
    """What of a whole `ask` the next one on its connection may refer to."""
    return ask.body if len(ask.body) <= MAX_KEPT_BYTES else b""


def said_since(ask: Ask, last: bytes) -> Ask:
    """A whole `ask` without what stands in `last`, the body that the receiver keeps."""
    prefix = _num_common(ask.body, last)
    rest, rest_of_last = ask.body[prefix:], last[prefix:]
    suffix = _num_common(rest[::-1], rest_of_last[::-1])
    if prefix + suffix < _WORTH_BYTES:
        return ask
    kept = Kept(prefix, suffix, _digest(ask.body))
    return msgspec.structs.replace(ask, body=rest[: len(rest) - suffix], kept=kept)


def in_full(ask: Ask, last: bytes) -> Ask:
    """The whole of an `ask` that may refer to `last`. Raises `ProtocolError` if it does not fit it."""
    kept = ask.kept
    if kept is None:
        return ask
    if kept.prefix + kept.suffix > len(last):
        raise ProtocolError(f"{kept.prefix} + {kept.suffix} bytes of {len(last)} are not kept")
    body = last[: kept.prefix] + ask.body + last[len(last) - kept.suffix :]
    if _digest(body) != kept.digest:
        raise ProtocolError("the body is not the one that was sent")
    return msgspec.structs.replace(ask, body=body, kept=None)


def _num_common(left: bytes, right: bytes) -> int:
    """How many leading bytes the two share: by halves, as bytes compare faster than a loop over them."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_DIGEST_BYTES]
