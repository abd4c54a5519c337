"""What a body costs on its way down, and that it is read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipesd_vllm.wire import Deflater, Inflater


@given(st.lists(st.binary(max_size=300)))
def test_a_body_is_read_back_piece_by_piece(pieces: list[bytes]) -> None:
    """Each piece is whole with its frame: nothing waits for the next."""
    deflater, inflater = Deflater(), Inflater()
    assert [inflater.add(deflater.add(piece)) for piece in pieces] == pieces


def test_an_event_that_repeats_the_one_before_costs_little() -> None:
    """Verbatim it is ten times as much."""
    event = (
        '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    )
    event += '"delta":{"content":"%s"},"logprobs":null,"finish_reason":null}]}\n\n'
    deflater = Deflater()
    deflater.add(b"data: " + (event % "first").encode())
    assert len(deflater.add(b"data: " + (event % " word").encode())) <= 16
