"""Sampled drafts of the llama.cpp drafter with a real model, SmolLM2-135M."""

from collections.abc import Iterator

import numpy as np
import pytest

from edge_agent.api import Sampling
from edge_agent.drafting import embedded_model
from edge_agent.drafting.llama.context import DecodeStatus, LlamaContext
from edge_agent.drafting.llama.drafter import LlamaDrafter, LlamaSettings
from edge_agent.drafting.llama.slots import Chunk
from edge_agent.sampling import SampledPicker
from pipesd_vllm.wire.noise import gumbel

from .test_llama_drafter import CAPITALS, NUMBERS, finish

PLAIN = Sampling(32, temperature=1.0, seed=7)
PENALISED = Sampling(32, temperature=0.8, top_p=0.95, seed=3, presence_penalty=0.6, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def drafter() -> Iterator[LlamaDrafter]:
    drafter = LlamaDrafter.load(embedded_model(), LlamaSettings(n_ctx=512, n_batch=64))
    yield drafter
    drafter.close()


def drafted(drafter: LlamaDrafter, sequence: int, num: int) -> list[int]:
    return [finish(drafter, sequence).token_id for _ in range(num)]


def test_the_draft_is_the_noisy_argmax_over_the_whole_vocabulary(drafter: LlamaDrafter) -> None:
    """At temperature 1 each draft is the argmax of logits plus noise, token by token."""
    context = LlamaContext(embedded_model(), LlamaSettings(n_ctx=512, max_sequences=1))
    sequence = drafter.open(NUMBERS, SampledPicker(PLAIN, len(NUMBERS)))
    tokens = list(NUMBERS)
    for _ in range(6):
        context.clear(0)
        assert context.decode([Chunk(0, 0, tuple(tokens), completes=True)]) is DecodeStatus.DONE
        last = len(tokens) - 1
        noisy = context.logits(last) + gumbel(7, last, np.arange(drafter.info.num_tokens))
        picked = finish(drafter, sequence)
        # Quantised weights round differently in differently shaped batches: a near-tie may turn round.
        assert noisy[picked.token_id] > noisy.max() - 0.5
        assert 0.0 < picked.probability <= 1.0
        tokens.append(picked.token_id)
    drafter.close_sequence(sequence)
    context.close()


@pytest.mark.parametrize("settings", [PLAIN, PENALISED])
def test_drafts_after_a_rejection_are_those_of_a_new_sequence(
    drafter: LlamaDrafter, settings: Sampling
) -> None:
    """Rewinding takes noise and penalties back with the tokens; a sequence beside it has its own."""
    first = drafter.open(CAPITALS, SampledPicker(settings, len(CAPITALS)))
    beside = drafter.open(NUMBERS, SampledPicker(PLAIN, len(NUMBERS)))
    text = drafted(drafter, first, 5)
    other = drafted(drafter, beside, 2)
    drafter.rewrite(first, len(CAPITALS) + 2, [NUMBERS[0]])
    after = drafted(drafter, first, 3)
    other += drafted(drafter, beside, 2)
    drafter.close_sequence(first)
    drafter.close_sequence(beside)

    prompt = len(CAPITALS)
    known = [*CAPITALS, *text[:2], NUMBERS[0]]
    again = drafter.open(known, SampledPicker(settings, prompt))
    assert drafted(drafter, again, 3) == after
    drafter.close_sequence(again)
    alone = drafter.open(NUMBERS, SampledPicker(PLAIN, len(NUMBERS)))
    assert drafted(drafter, alone, 4) == other
    drafter.close_sequence(alone)
