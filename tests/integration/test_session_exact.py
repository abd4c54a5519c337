"""The committed stream is the target's own text: at the real engine, under any drafts, across connections."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.exactness.drafts import KINDS
from pipesd_vllm.wire import Draft, Mode
from tests.conftest import Verifier

from .drafting_edge import DraftingEdge
from .session_client import edge_of, opening, plain_tokens

pytestmark = pytest.mark.engine

PROMPTS = {
    Mode.OFFLOAD: [504, 2365, 282, 260, 1838, 314],
    Mode.BALANCED: [1604, 6330, 338, 253, 4687, 28],
    Mode.LATENCY: [985, 597, 355, 6354, 30],
}
NUM_TOKENS = 24

Truth = Mapping[Mode, list[int]]
Round = tuple[str, int, bool, float]
"""Kind, number of tokens, verify flag, seconds to look for a commit afterwards."""


@pytest.fixture(scope="module")
def truth(verifier: Verifier) -> Truth:
    """The plain continuation of each prompt."""
    return {mode: plain_tokens(verifier, prompt, NUM_TOKENS) for mode, prompt in PROMPTS.items()}


ROUNDS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 12), st.booleans(), st.sampled_from([0.0, 0.001, 0.03])),
    max_size=10,
)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=st.fixed_dictionaries(dict.fromkeys(Mode, ROUNDS)))
def test_any_drafts(verifier: Verifier, truth: Truth, rounds: Mapping[Mode, list[Round]]) -> None:
    """Three sessions at a time, one a mode, get drafts of every kind in any order; each commits exactly
    what plain decoding gives, every position once and in order."""

    async def session(mode: Mode) -> list[int]:
        async with edge_of(verifier) as edge:
            opened = opening(PROMPTS[mode], NUM_TOKENS, mode=mode, patience_ms=20)
            drafting = DraftingEdge(edge, opened, truth[mode])
            await drafting.open()
            for kind, length, verify, look_s in rounds[mode]:
                await drafting.draft(kind, length, verify=verify)
                if not drafting.finished:
                    with suppress(TimeoutError):
                        await drafting.look(look_s)
            await drafting.tell_the_truth()
            return drafting.tokens

    async def sessions() -> list[list[int]]:
        return await asyncio.gather(*map(session, Mode))

    assert asyncio.run(sessions()) == [truth[mode] for mode in Mode]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("num_received", [0, 1, 7])
async def test_a_lost_connection(verifier: Verifier, truth: Truth, mode: Mode, num_received: int) -> None:
    """A turn whose connection breaks off goes on, on another one, exactly where the edge saw it end."""
    prompt, received = PROMPTS[mode], []
    async with edge_of(verifier) as edge:
        await edge.send(opening(prompt, NUM_TOKENS, mode=Mode.LATENCY))
        while len(received) < num_received:
            received += (await edge.commit(1)).tokens
        edge.break_off()
    async with edge_of(verifier) as edge:
        await edge.send(opening(prompt, NUM_TOKENS, mode=mode, patience_ms=20, committed=received))
        frontier = len(prompt) + len(received)
        await edge.send(Draft(1, 1, frontier, 0, truth[mode][len(received) :]))
        assert received + await edge.rest_of(1, frontier) == truth[mode]


async def test_the_end_of_the_context(verifier: Verifier) -> None:
    """Drafts beyond the context's last position are cut; the turn ends there as plain decoding does."""
    async with edge_of(verifier) as edge:
        num_left = 5
        prompt = [300 + number % 40 for number in range(edge.welcome.max_model_len - num_left)]
        truth = await asyncio.to_thread(plain_tokens, verifier, prompt, num_left)
        await edge.send(opening(prompt, 100), Draft(1, 1, len(prompt), 0, [*truth, *[7] * 30]))
        assert await edge.rest_of(1, len(prompt)) == truth
