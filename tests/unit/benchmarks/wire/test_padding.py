"""The published wire's weight."""

import msgspec

from benchmarks.wire.padding import PUBLISHED_TOKEN_BYTES, is_padding, padding_frame, probe_tokens
from pipesd_vllm.protocol import Cancel, Draft, encode


def test_weight() -> None:
    """A draft token weighs 290,304 bytes, 9 for each of 32,256 entries."""
    assert PUBLISHED_TOKEN_BYTES == 290_304 == len(padding_frame())
    assert len(padding_frame(3)) == 3 * 290_304
    assert len(msgspec.msgpack.encode(0.1)) == 9


def test_padding_is_told_from_frames() -> None:
    """No frame of the protocol is taken for padding, and no padding for a frame."""
    assert is_padding(padding_frame())
    assert not any(is_padding(encode(message)) for message in (Cancel(1), Draft(1, 1, 1, 0, [5])))
    assert not is_padding("text")


def test_probes() -> None:
    """A ping as large as a frame of n tokens stands for n of them, an empty one for none."""
    assert [probe_tokens(size) for size in (8, 12, 15, 36)] == [0, 0, 1, 8]
