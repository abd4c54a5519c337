"""Drafts verified at a temperature above 0: the target's own distribution decides."""

import pytest

from edge_agent.api import SessionMode
from pipesd_vllm.wire import Open, Sampling
from tests.conftest import Verifier

from .drafting_edge import DraftingEdge
from .session_client import edge_of, plain_tokens

PROMPT = list(range(100, 130))
NUM_TOKENS = 24


@pytest.mark.parametrize("kind", ["right", "half"])
async def test_a_tiny_temperature_gives_the_greedy_text(verifier: Verifier, kind: str) -> None:
    """At T = 0.001 sampling is greedy; drafts, right or wrong, must not change that."""
    truth = plain_tokens(verifier, PROMPT, NUM_TOKENS)
    sampling = Sampling(NUM_TOKENS, temperature=0.001, top_p=0.9, seed=7, ignore_eos=True)
    async with edge_of(verifier) as edge:
        drafting = DraftingEdge(edge, Open(1, PROMPT, sampling, SessionMode.OFFLOAD), truth)
        await drafting.open()
        await drafting.look()
        while not drafting.finished:
            await drafting.draft(kind, 5)
            await drafting.look()
    assert drafting.tokens == truth
