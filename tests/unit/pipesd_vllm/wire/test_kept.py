"""What an `Ask` leaves out is put back as it was, or not at all."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_vllm.wire import Ask, Kept, ProtocolError, in_full, said_since, to_keep
from pipesd_vllm.wire.kept import MAX_KEPT_BYTES

BODIES = st.lists(st.sampled_from([b"a" * 40, b"b" * 40, b"ab", b"\xff"]), max_size=6).map(b"".join)


def ask(body: bytes) -> Ask:
    return Ask(1, "/v1/chat/completions", body, "r")


def chat(*contents: str) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"messages": messages, "tools": ["a tool " * 100]}).encode()


@given(BODIES, BODIES)
def test_a_body_comes_back_whole(body: bytes, last: bytes) -> None:
    """Whatever was said before it, and also where the two overlap."""
    assert in_full(said_since(ask(body), last), last) == ask(body)


def test_only_the_new_messages_of_a_conversation_travel() -> None:
    first, second = chat("x" * 5000), chat("x" * 5000, "yes", "and now?")
    sent = said_since(ask(second), first)
    assert len(sent.body) < 100
    assert in_full(sent, first).body == second


def test_nothing_is_left_out_that_is_not_worth_it() -> None:
    """A few bytes in common, and a body that is too long to be kept."""
    assert said_since(ask(b"{a lot of other things}"), b"{nothing}").kept is None
    assert to_keep(ask(b"x" * MAX_KEPT_BYTES))
    assert not to_keep(ask(b"x" * (MAX_KEPT_BYTES + 1)))


@pytest.mark.parametrize(
    "changed",
    [{"prefix": 10_000}, {"suffix": 10_000}, {"prefix": 0}, {"digest": b"12345678"}],
    ids=["too much before", "too much behind", "less", "another body"],
)
def test_what_does_not_fit_is_no_body(changed: dict[str, object]) -> None:
    """As for an edge that refers to what it never sent."""
    first = chat("x" * 500)
    sent = said_since(ask(chat("x" * 500, "more")), first)
    assert isinstance(sent.kept, Kept)
    wrong = msgspec.structs.replace(sent, kept=msgspec.structs.replace(sent.kept, **changed))
    for last in (first, b""):
        with pytest.raises(ProtocolError):
            in_full(wrong, last)
