"""Whatever a client sends ends in a typed error, and the session beside it does not notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pipesd_vllm.wire import (
    MAX_DRAFT_TOKENS,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Cancel,
    Draft,
    Mode,
    Open,
    RefusalCode,
    Sampling,
    Upstream,
    encode,
)
from tests.conftest import Verifier

from .session_client import Edge, dial, edge_of, opening, plain_tokens, until_idle

pytestmark = pytest.mark.engine

PROMPT = [504, 2365, 282, 260, 1838, 314]
NUM_TOKENS = 12
VOCAB_SIZE = 49152
CONTEXT = 2048


@pytest.fixture(scope="module")
def truth(verifier: Verifier) -> list[int]:
    """The plain continuation of `PROMPT`."""
    return plain_tokens(verifier, PROMPT, NUM_TOKENS)


@pytest.fixture(autouse=True)
def quiet_log(verifier: Verifier) -> Iterator[None]:
    """No test here leaves a traceback in the server's log."""
    log = verifier.process.log_path
    size = log.stat().st_size
    yield
    assert b"Traceback" not in log.read_bytes()[size:]


@asynccontextmanager
async def neighbour(verifier: Verifier, truth: list[int]) -> AsyncIterator[None]:
    """Another edge's turn runs meanwhile; it must come out as plain decoding does."""
    async with edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, NUM_TOKENS, mode=Mode.LATENCY))
        first = (await edge.commit(1)).tokens
        yield
        assert first + await edge.rest_of(1, len(PROMPT) + len(first)) == truth


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
async def test_wrong_key(verifier: Verifier, truth: list[int], headers: dict[str, str]) -> None:
    """Without the key there is no WebSocket: HTTP 401 at the upgrade."""
    async with neighbour(verifier, truth):
        with pytest.raises(InvalidStatus) as caught:
            await dial(verifier, additional_headers=headers)
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize("offered", [None, ["pipesd.v3"], ["chat"], ["v1", "pipesd"]])
async def test_unknown_version(verifier: Verifier, truth: list[int], offered: list[str] | None) -> None:
    """A client that does not offer our version is told so before anything else."""
    subprotocols = None if offered is None else [Subprotocol(name) for name in offered]
    async with neighbour(verifier, truth), dial(verifier, subprotocols=subprotocols) as socket:
        code, reason = await Edge(socket, welcome=None).closed_by_server()  # type: ignore[arg-type]
    assert (code, reason.partition(":")[0]) == (1008, "bad_version")
    assert f"version {PROTOCOL_VERSION}" in reason


GOOD = encode(opening(PROMPT, NUM_TOKENS))


def opened_with(prompt: Sequence[int] = PROMPT, **sampling: object) -> bytes:
    return encode(Open(2, list(prompt), Sampling(**({"max_tokens": 4} | sampling))))  # type: ignore[arg-type]


def drafted(*tokens: int, first: int = 1, parents: list[int] | None = None) -> bytes:
    return encode(Draft(1, first, len(PROMPT) + 1, 0, list(tokens), True, parents))


CLOSING = {
    "text": ("hello", 1003, "bad_frame"),
    "text that is a frame": (encode(Cancel(1)).decode("latin-1"), 1003, "bad_frame"),
    "empty": (b"", 1007, "bad_frame"),
    "truncated": (GOOD[:-3], 1007, "bad_frame"),
    "two frames in one": (GOOD + GOOD, 1007, "bad_frame"),
    "random": (bytes(range(256)), 1007, "bad_frame"),
    "unknown type": (b"\x92\x63\x01", 1007, "bad_frame"),
    "down frame sent up": (b"\x94\x12\x01\xa4busy\xa0", 1007, "bad_frame"),
    "deeply nested": (b"\x91" * 100_000, 1007, "bad_frame"),
    "length without content": (b"\x93\x02\x01\xdd\xff\xff\xff\xff", 1007, "bad_frame"),
    "1 MiB and a byte": (bytes(MAX_FRAME_BYTES + 1), 1009, "too_large"),
    "prompt token -1": (opened_with([*PROMPT, -1]), 1007, "bad_frame"),
    "prompt token 2^32": (opened_with([*PROMPT, 2**32]), 1007, "bad_frame"),
    "prompt token beyond the vocabulary": (opened_with([*PROMPT, VOCAB_SIZE]), 1008, "bad_token"),
    "prompt token 2^32-1": (opened_with([*PROMPT, 2**32 - 1]), 1008, "bad_token"),
    "committed token beyond the vocabulary": (
        encode(opening(PROMPT, 4, turn=2, committed=[VOCAB_SIZE])),
        1008,
        "bad_token",
    ),
    "stop token beyond the vocabulary": (opened_with(stop_token_ids=[VOCAB_SIZE]), 1008, "bad_token"),
    "draft token -1": (drafted(-1), 1007, "bad_frame"),
    "draft token beyond the vocabulary": (drafted(5, VOCAB_SIZE), 1008, "bad_token"),
    "draft token 2^32-1": (drafted(2**32 - 1), 1008, "bad_token"),
    "draft without tokens": (drafted(), 1007, "bad_frame"),
    "draft of too many tokens": (drafted(*[5] * (MAX_DRAFT_TOKENS + 1)), 1007, "bad_frame"),
    "draft node 0": (drafted(5, first=0), 1008, "bad_frame"),
    "parent after its child": (drafted(5, 6, parents=[1, -1]), 1008, "bad_frame"),
    "parent -2": (drafted(5, 6, parents=[-1, -2]), 1008, "bad_frame"),
    "too few parents": (drafted(5, 6, parents=[-1]), 1008, "bad_frame"),
    "no tokens wanted": (opened_with(max_tokens=0), 1007, "bad_frame"),
    "negative temperature": (opened_with(temperature=-0.5), 1007, "bad_frame"),
    "temperature too high": (opened_with(temperature=100.5), 1007, "bad_frame"),
    "temperature not a number": (opened_with(temperature=float("nan")), 1007, "bad_frame"),
    "top_p 0": (opened_with(top_p=0.0), 1007, "bad_frame"),
    "top_p above 1": (opened_with(top_p=1.5), 1007, "bad_frame"),
    "top_p not a number": (opened_with(temperature=1.0, top_p=float("nan")), 1007, "bad_frame"),
    "seed as text": (opened_with(seed="1"), 1007, "bad_frame"),
}


@pytest.mark.parametrize(("frame", "code", "reason"), CLOSING.values(), ids=CLOSING.keys())
async def test_closing_frames(
    verifier: Verifier, truth: list[int], frame: bytes | str, code: int, reason: str
) -> None:
    """A frame that cannot be meant closes its own connection, in mid-turn, with a code and a reason."""
    async with neighbour(verifier, truth), edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, NUM_TOKENS))
        await edge.commit(1)
        await edge.socket.send(frame)
        closed = await edge.closed_by_server()
    assert (closed[0], closed[1].partition(":")[0]) == (code, reason)
    await until_idle(verifier)


REFUSED = {
    "empty prompt": (opening([], 4, turn=2), RefusalCode.EMPTY_PROMPT),
    "nothing but committed tokens": (opening([], 4, turn=2, committed=[5]), RefusalCode.EMPTY_PROMPT),
    "prompt that fills the context": (opening([5] * CONTEXT, 4, turn=2), RefusalCode.PROMPT_TOO_LONG),
    "prompt of almost a frame": (opening([5] * 1_000_000, 4, turn=2), RefusalCode.PROMPT_TOO_LONG),
    "prompt and committed tokens that fill the context": (
        opening([5] * (CONTEXT - 3), 9, turn=2, committed=[5, 5, 5]),
        RefusalCode.PROMPT_TOO_LONG,
    ),
    "everything committed already": (
        opening(PROMPT, 2, turn=2, committed=[5, 5]),
        RefusalCode.BAD_SAMPLING,
    ),
}


@pytest.mark.parametrize(("opened", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_refused_turns(verifier: Verifier, truth: list[int], opened: Open, code: RefusalCode) -> None:
    """A turn that cannot be served is refused by its code, and the connection serves the next one."""
    async with neighbour(verifier, truth), edge_of(verifier) as edge:
        await edge.send(opened)
        refusal = await edge.refusal(turn=2)
        assert refusal.code is code
        assert refusal.message
        assert await edge.generate(PROMPT, 4) == truth[:4]


IGNORED: dict[str, list[Upstream]] = {
    "draft of an unknown turn": [Draft(77, 1, len(PROMPT) + 1, 0, [5, 6])],
    "cancel of an unknown turn": [Cancel(77)],
    "draft far ahead": [Draft(1, 1, 2**32 - 1, 0, [5])],
    "draft at the largest id": [Draft(1, 2**32 - 1, len(PROMPT) + 1, 9, [5, 6])],
    "more nodes than a trie holds": [
        Draft(1, 1 + 256 * number, len(PROMPT) + 1, 0, [5] * 256, False) for number in range(40)
    ],
}


@pytest.mark.parametrize("frames", IGNORED.values(), ids=IGNORED.keys())
async def test_frames_that_change_nothing(
    verifier: Verifier, truth: list[int], frames: list[Upstream]
) -> None:
    """Frames that mean nothing to the turn leave it as it was: the next drafts are verified."""
    async with neighbour(verifier, truth), edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, NUM_TOKENS))
        base = len(PROMPT) + len((await edge.commit(1)).tokens)
        await edge.send(*frames)
        await edge.send(Draft(1, 2**20, base, 0, truth[1:9]))
        commit = await edge.commit(1)
        assert (commit.base, commit.tokens[0]) == (base, truth[1])


async def test_a_flood_of_drafts(verifier: Verifier, truth: list[int]) -> None:
    """More frames than a turn holds or a second may bring, still coming after its end, do not block it."""
    async with neighbour(verifier, truth), edge_of(verifier) as edge:
        await edge.send(opening(PROMPT, 1, mode=Mode.LATENCY))
        flood = encode(Draft(1, 1, len(PROMPT), 0, [7]))
        for _ in range(2500):
            await edge.socket.send(flood)
        assert await edge.rest_of(1, len(PROMPT)) == truth[:1]
        assert await edge.generate(PROMPT, 4) == truth[:4]
