"""Drafts verified at a temperature above 0: the target's own distribution decides."""

import pytest

from pipesd_vllm.wire import Draft, Mode, Open, Sampling
from tests.conftest import Verifier

from .session_client import edge_of, plain_tokens

PROMPT = list(range(100, 130))
NUM_TOKENS = 24


@pytest.mark.parametrize("wrong_every", [0, 3])
async def test_a_tiny_temperature_gives_the_greedy_text(verifier: Verifier, wrong_every: int) -> None:
    """At T = 0.001 sampling is greedy; drafts, right or wrong, must not change that."""
    truth = plain_tokens(verifier, PROMPT, NUM_TOKENS)
    got: list[int] = []
    next_id = 1
    sampling = Sampling(NUM_TOKENS, temperature=0.001, top_p=0.9, seed=7, ignore_eos=True)
    async with edge_of(verifier) as edge:
        await edge.send(Open(1, PROMPT, sampling, Mode.OFFLOAD))
        while len(got) < NUM_TOKENS:
            commit = await edge.commit(1)
            got += commit.tokens
            tokens = truth[len(got) : len(got) + 5]
            if wrong_every:
                tokens[wrong_every:] = [5] * len(tokens[wrong_every:])
            if tokens and commit.finish_reason is None:
                await edge.send(Draft(1, next_id, len(PROMPT) + len(got), 0, tokens))
                next_id += len(tokens)
    assert got == truth
