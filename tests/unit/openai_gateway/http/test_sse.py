from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from openai_gateway.http.streaming import read_events

STREAM = (
    'data: {"a":"\u2028é"}\n\n: ping\n\nevent: x\r\ndata:{"b":1}\r\n\r\n'
    "data: 1\ndata: 2\n\ndata: [DONE]\n\ndata: cut off\n"
).encode()
EVENTS = ['{"a":"\u2028é"}'.encode(), b'{"b":1}', b"1\n2", b"[DONE]"]


async def in_parts(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_however_they_are_cut(size: int) -> None:
    """Whole events come out whole, whatever the network did to the stream; what was cut off does not."""
    parts = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event async for event in read_events(in_parts(parts))] == EVENTS
