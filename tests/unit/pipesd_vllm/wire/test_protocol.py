"""The wire contract: sizes, round trips, refusals."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_vllm.wire import (
    Ask,
    Begun,
    Cancel,
    CloseReason,
    Commit,
    CommittedStream,
    Control,
    Draft,
    Fingerprint,
    Identity,
    Kept,
    Limits,
    Mode,
    Open,
    Part,
    ProtocolError,
    RefusalCode,
    Refused,
    Reply,
    Resume,
    Sampling,
    Structure,
    StructureKind,
    Text,
    TokenLogprobs,
    Welcome,
    confidence_byte,
    decode_downstream,
    decode_upstream,
    encode,
    encode_in_parts,
    fingerprint,
    prompt_guess,
    protocol,
)

UINT = st.integers(0, 2**32 - 1)
EVERYTHING = Sampling(
    8,
    temperature=0.5,
    top_p=0.9,
    seed=-(2**63),
    ignore_eos=True,
    stop_token_ids=[2],
    top_k=40,
    min_p=0.05,
    presence_penalty=-2.0,
    frequency_penalty=2.0,
    repetition_penalty=1.1,
    min_tokens=3,
    logit_bias={7: -100.0, 9: 1.5},
    bad_words=["no"],
    allowed_token_ids=[1, 2, 3],
    logprobs=20,
    structure=Structure(StructureKind.JSON_SCHEMA, '{"type": "object"}'),
)


RESUME = Resume(
    [1], [CommittedStream([7], [TokenLogprobs(-0.5, 2, [(3, -0.25)])], "stop", 7)], [4], "files:a", b"\1" * 32
)
ASKED = Ask(1, "/v1/completions", b"{}", "id-1", Mode.OFFLOAD, 40, prompt_guess([1, 2]), RESUME)


@given(
    st.builds(
        Draft,
        *[UINT] * 4,
        st.lists(UINT, min_size=1, max_size=256),
        st.booleans(),
        confidences=st.binary(max_size=256),
    )
)
def test_drafts_survive_the_wire(draft: Draft) -> None:
    """Whatever can be said in a draft frame is read back unchanged."""
    assert decode_upstream(encode(draft)) == draft


@pytest.mark.parametrize(
    "message",
    [
        Open(1, [1, 2], Sampling(8, 0.5, 0.9, 3, True, [2]), Mode.OFFLOAD, 20, [7]),
        Open(1, [1, 2], EVERYTHING, adapter="poet"),
        Cancel(3),
        ASKED,
        msgspec.structs.replace(ASKED, kept=Kept(3, 4, b"8 bytes.")),
        Part(b"piece", True),
        Control(3, Mode.OFFLOAD, 40, True, 1),
    ],
)
def test_upstream_messages_survive_the_wire(message: protocol.Upstream) -> None:
    """All but drafts, which have their own test, are read back unchanged."""
    assert decode_upstream(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Commit(1, 20, [4, 5], 1, 3, 1, 0.25, 19.5, "stop"),
        Commit(1, 20, [4], logprobs=[TokenLogprobs(-0.25, 1, [(4, -0.25), (9, -3.5)])]),
        Commit(1, 20, [], finish_reason="stop_string", stream=2, stop_reason=7),
        Commit(1, 20, [4], cap=0),
        Refused(2, RefusalCode.PROMPT_TOO_LONG, "too long"),
        Begun(1, [1, 2], 3, [7, None], EVERYTHING, adapter="files:a", media=b"\1" * 32),
        Begun(1, drafted=False, reason="beam search"),
        Reply(1, 200, [("content-type", "text/event-stream")]),
        Text(1, b"data", True),
    ],
)
def test_downstream_messages_survive_the_wire(message: protocol.Downstream) -> None:
    """All are read back unchanged."""
    assert decode_downstream(encode(message)) == message


@pytest.mark.parametrize("vocab_size", [49_152, 151_936])
def test_four_draft_tokens_cost_at_most_sixteen_bytes_each(vocab_size: int) -> None:
    """A batch of four stays under 16 bytes a token, WebSocket header included."""
    draft = Draft(900, 5_000, 30_000, 4_999, [vocab_size - 1] * 4, confidences=bytes(4))
    assert (len(encode(draft)) + 6) / 4 <= 16


@given(st.floats(0, 1))
def test_a_confidence_is_a_byte(probability: float) -> None:
    """Certainty and impossibility have their own."""
    assert abs(confidence_byte(probability) / 255 - probability) <= 0.5 / 255
    assert [confidence_byte(end) for end in (-1.0, 0.0, 1.0, 2.0)] == [0, 0, 255, 255]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_decoded_but_never_crash(data: bytes) -> None:
    """Arbitrary bytes give a message or a ProtocolError."""
    try:
        decode_upstream(data)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(Draft(1, 1, 1, 0, [1]))[:-2],
        encode(Draft(1, 1, 1, 0, [])),
        encode(Draft(1, 1, 1, 0, [-1])),
        encode(Draft(1, 1, 1, 0, [2**32])),
        encode(Draft(1, 1, 1, 0, [1], confidences=bytes(257))),
        encode(Open(1, [1], Sampling(0))),
        encode(Open(1, [1], Sampling(1, temperature=-1.0))),
        encode(Open(1, [1], Sampling(1, temperature=float("nan")))),
        encode(Commit(1, 1, [1])),
        encode(Ask(1, "/v1/responses", b"{}", "id")),  # type: ignore[arg-type]
        encode(Ask(1, "/v1/completions", b"{}", "two\r\nlines")),
        encode(Control(1, patience_ms=protocol.MAX_PATIENCE_MS + 1)),
    ],
    ids=(
        *(
            "empty",
            "truncated",
            "no tokens",
            "negative",
            "too big",
            "confidences",
            "no max",
            "cold",
            "nan",
            "downstream",
        ),
        *("path", "header", "patience"),
    ),
)
def test_malformed_frames_are_protocol_errors(data: bytes) -> None:
    """Each malformed frame is refused with a ProtocolError."""
    with pytest.raises(ProtocolError):
        decode_upstream(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**63},
        {"top_k": -1},
        {"min_p": 1.5},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"repetition_penalty": 0.0},
        {"min_tokens": -1},
        {"logit_bias": {3: 101.0}},
        {"logit_bias": {-3: 1.0}},
        {"logit_bias": dict.fromkeys(range(protocol.MAX_LISTED + 1), 1.0)},
        {"bad_words": [""]},
        {"bad_words": ["x" * 257]},
        {"stop_token_ids": [1] * (protocol.MAX_STOP_TOKENS + 1)},
        {"allowed_token_ids": [-1]},
        {"allowed_token_ids": [1] * (protocol.MAX_LISTED + 1)},
        {"logprobs": 21},
        {"structure": Structure(StructureKind.REGEX, "x" * (protocol.MAX_STRUCTURE_BYTES + 1))},
    ],
)
def test_sampling_outside_its_bounds_is_a_protocol_error(fields: dict[str, Any]) -> None:
    """No field of `Sampling` takes a value that the sampler could not serve."""
    with pytest.raises(ProtocolError):
        decode_upstream(encode(Open(1, [1], Sampling(8, **fields))))


def test_fields_left_out_cost_nothing_and_mean_nothing() -> None:
    """A `Sampling` of the first six fields, as older edges send it, is read with the defaults."""
    old = [1, 1, [1], [8, 0.5, 0.9, 3, True, [2]]]
    decoded = decode_upstream(msgspec.msgpack.encode(old))
    assert decoded == Open(1, [1], Sampling(8, 0.5, 0.9, 3, True, [2]))


def test_a_message_larger_than_a_frame_comes_in_parts() -> None:
    """Each fits a frame, and together they are the message; a small one is a frame as it is."""
    small = Ask(1, "/v1/completions", b"{}", "id")
    assert list(encode_in_parts(small)) == [encode(small)]
    big = Ask(1, "/v1/completions", b"x" * (3 << 20), "id")
    parts = [decode_upstream(data) for data in encode_in_parts(big)]
    assert all(isinstance(part, Part) for part in parts)
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]  # type: ignore[union-attr]
    data = b"".join(part.data for part in parts)  # type: ignore[union-attr]
    assert decode_upstream(data, 1 << 22) == big


def test_frames_of_version_1_are_read_and_written() -> None:
    """What has grown since is left out by older edges, and passed over by them."""
    older = [2, 1, 1, 20, 0, [4, 5], True, None]
    assert decode_upstream(msgspec.msgpack.encode(older)) == Draft(1, 1, 20, 0, [4, 5])

    class OlderCommit(msgspec.Struct, tag=17, array_like=True, frozen=True):
        turn: int
        base: int
        tokens: list[int]

    commit = Commit(1, 20, [4], stream=3, stop_reason=7)
    assert msgspec.msgpack.decode(encode(commit), type=OlderCommit) == OlderCommit(1, 20, [4])


def test_oversized_frames_are_refused_unread() -> None:
    """A frame over the limit is refused by its length."""
    with pytest.raises(ProtocolError, match="at most"):
        decode_upstream(b"\x00" * (protocol.MAX_FRAME_BYTES + 1))


def test_fingerprints_tell_vocabularies_apart() -> None:
    """Order, length and boundaries of the tokens all count."""
    same = fingerprint(["a", "bc"])
    assert same == fingerprint(iter(["a", "bc"]))
    assert len({same, fingerprint(["ab", "c"]), fingerprint(["bc", "a"]), fingerprint(["a"])}) == 4


def test_every_refusal_and_close_is_on_the_protocol_page() -> None:
    """The table of docs/protocol.md names each with its answer, and no other."""
    page = (Path(__file__).resolve().parents[4] / "docs" / "protocol.md").read_text(encoding="utf-8")
    answers = [
        row.split("|")[2] for row in re.findall(r"^\|.*", page.split("## When something is wrong")[1], re.M)
    ]
    closes = {word for answer in answers for word in re.findall(r"close \d{4} `(\w+)`", answer)}
    refusals = {
        word for answer in answers if "`Refused`" in answer for word in re.findall(r"`(\w+)`", answer)
    }
    assert closes == set(CloseReason)
    assert refusals - {"Refused"} == set(RefusalCode)


def test_a_welcome_is_read_by_older_and_newer_peers() -> None:
    """An older server tells no identity; an older edge passes over it, or over what it has grown by."""

    class Older(msgspec.Struct, tag=16, array_like=True, frozen=True):
        version: int
        model: str
        max_model_len: int
        vocab_size: int
        fingerprint: Fingerprint
        limits: Limits

    rest = 1, "m", 8, 9, Fingerprint(9, "x"), Limits(1, 2, 3)
    identity = Identity("hub:1", vllm_version="0.32.0")
    assert decode_downstream(msgspec.msgpack.encode(Older(*rest))) == Welcome(*rest, identity=None)
    told = encode(Welcome(*rest, identity=identity))
    assert decode_downstream(told) == Welcome(*rest, identity=identity)
    assert msgspec.msgpack.decode(told, type=Older) == Older(*rest)
    grown = [16, *msgspec.to_builtins(rest), {"weights": "hub:1", "vllm_version": "0.32.0", "newer": "field"}]
    assert decode_downstream(msgspec.msgpack.encode(grown)) == Welcome(*rest, identity=identity)


def test_a_welcome_tells_the_form_of_the_noise() -> None:
    """fp64 where the server says so; servers that say nothing draw in fp32."""
    rest = 1, "m", 8, 9, Fingerprint(9, "x"), Limits(1, 2, 3)
    assert Welcome(*rest, identity=Identity("hub:1", noise=protocol.FP64_NOISE)).draws_in_fp64
    for identity in (None, Identity("hub:1"), Identity("hub:1", noise="fp32")):
        assert not Welcome(*rest, identity=identity).draws_in_fp64


def test_identities_say_in_what_they_differ() -> None:
    """The fields by name, none for equal ones."""
    one = Identity("hub:1", dtype="bfloat16", runner="v1")
    other = Identity("hub:1", dtype="float16", runner="v2")
    assert one.differences(other) == other.differences(one) == ["dtype", "runner"]
    assert one.differences(Identity("hub:1", dtype="bfloat16", runner="v1")) == []
