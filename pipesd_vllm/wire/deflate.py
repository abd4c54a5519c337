"""The body of an answer on its way down: one raw deflate stream a turn, flushed at the end of each frame.

As in RFC 7692 (permessage-deflate) the four bytes with which every flush ends are left out. The window is
small: an event repeats what stood in the one before, and each turn under way holds a compressor.
"""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["Deflater", "Inflater"]

_LEVEL: Final = 6
_WINDOW_BITS: Final = 12
_MEMORY_LEVEL: Final = 5
"""With the window above 32 KiB for a compressor, in place of 256 KiB."""
_FLUSH_END: Final = b"\x00\x00\xff\xff"


class Deflater:
    """Compresses one body."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)

    def add(self, data: bytes) -> bytes:
        """`Text.data` that brings `data`; nothing for nothing."""
        if not data:
            return b""
        return (self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_FLUSH_END)


class Inflater:
    """Reads one body back."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)

    def add(self, data: bytes) -> bytes:
        """What one `Text.data` brings. Raises `zlib.error`."""
        return self._stream.decompress(data + _FLUSH_END) if data else b""
