"""Events as lines of a file."""

import msgspec
import pytest

from edge_agent.tracing import Committed, Sent, TraceEvent, decode_event, encode_event
from pipesd_vllm.wire import Commit, Draft


def test_every_event_survives_the_file(by_hand: list[TraceEvent]) -> None:
    """A line holds one event and reads back as the same."""
    for event in by_hand:
        line = encode_event(event)
        assert line.count(b"\n") == 1
        assert decode_event(line) == event


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[1]", b'{"event":"unheard_of","session":1}', b'{"event":"opened","t":"x"}', b"\xff"],
)
def test_other_lines_are_refused(line: bytes) -> None:
    """What is no event raises, whatever it is."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode_event(line)


def test_frames_become_events() -> None:
    """`Sent` and `Committed` carry what the frames say, field by field."""
    draft = Draft(turn=1, first=5, base=40, anchor=4, tokens=[7, 8], verify=False)
    assert Sent.of(2, 1.5, draft, 33) == Sent(
        session=2, t=1.5, num_tokens=2, base=40, first_node=5, verify=False, num_bytes=33
    )
    commit = Commit(1, 40, [7, 9], passes=2, drafted=3, accepted=1, queue_ms=4.0, step_ms=20.0)
    assert Committed.of(2, 2.5, commit, 21) == Committed(
        session=2,
        t=2.5,
        base=40,
        tokens=[7, 9],
        passes=2,
        num_verified=3,
        num_accepted=1,
        queue_ms=4.0,
        step_ms=20.0,
        num_bytes=21,
    )
