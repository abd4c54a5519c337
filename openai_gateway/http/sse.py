"""Reading server-sent events of an OpenAI server. Pure but for the bytes it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator

__all__ = ["read_events"]

_DATA = b"data:"


async def read_events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each whole event, in order; comments and other fields are passed over.

    Lines end with LF or CR LF alone: JSON may hold the other line separators of Unicode as they are.
    """
    rest = b""
    data: list[bytes] = []
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(_DATA):
                data.append(line[len(_DATA) :].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
