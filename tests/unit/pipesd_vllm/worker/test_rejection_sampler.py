"""Verified tokens are those that sampling without drafts gives, however good the drafts are."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipesd_vllm.fill_in import MAX_DRAFTS
from pipesd_vllm.worker.rejection_sampler import CoupledRejectionSampler, NullSpeculator

VOCAB = 50
NOTHING = -1


class SampleByPosition:
    """Stands for vLLM's sampler: a row's token depends on its logits, position and input token alone."""

    def sample(
        self,
        logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: Any,
        pos: torch.Tensor,
        input_ids: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        processed = logits + 1
        return (processed.argmax(dim=-1) * 7 + pos) % VOCAB, processed


def next_token(text: list[int]) -> int:
    """The target of these tests."""
    return (text[-1] * 3 + text[0] * 7 + len(text) - 1) % VOCAB


def decoded(text: list[int], number: int) -> list[int]:
    """What follows `text` without drafts."""
    whole = list(text)
    for _ in range(number):
        whole.append(next_token(whole))
    return whole[len(text) :]


def target_logits(text: list[int]) -> torch.Tensor:
    """Logits from which the sampler above takes `next_token`: 7 is invertible modulo `VOCAB`."""
    best = (next_token(text) - (len(text) - 1)) * pow(7, -1, VOCAB) % VOCAB
    return torch.nn.functional.one_hot(torch.tensor(best), VOCAB).float()


def verify(requests: list[tuple[list[int], list[int]]], width: int = 4) -> list[list[int]]:
    """The tokens that count of each (text, drafts), after one step of at most `width` drafts a request."""
    config: Any = SimpleNamespace(
        num_speculative_tokens=width, enable_adaptive_verification=False, rejection_sample_method="standard"
    )
    sampler: Any = SampleByPosition()
    verifier = CoupledRejectionSampler(sampler, config, torch.device("cpu"))
    rows = [
        (number, place, text + drafts[:place])
        for number, (text, drafts) in enumerate(requests)
        for place in range(len(drafts) + 1)
    ]
    inputs = torch.tensor([seen[-1] for _, _, seen in rows])
    states = torch.arange(len(requests)).flip(0)
    logits = torch.stack([target_logits(seen) for _, _, seen in rows])
    starts = [0]
    for _, drafts in requests:
        starts.append(starts[-1] + len(drafts) + 1)
    processed, tokens, counts = verifier._verify(
        logits,
        None,
        inputs,
        torch.tensor([len(seen) - 1 for _, _, seen in rows]),
        torch.tensor(starts, dtype=torch.int32),
        states,
        states.numpy(),
        states[[number for number, _, _ in rows]],
        torch.tensor([place for _, place, _ in rows], dtype=torch.int32),
        states.numpy(),
        inputs,
    )
    assert torch.equal(processed, logits + 1)
    assert tokens.shape == (len(requests), width + 1)
    assert counts.dtype == torch.int32
    return [row[:count].tolist() for row, count in zip(tokens, counts.tolist(), strict=True)]


def wrong_at(drafts: list[int], place: int) -> list[int]:
    return [*drafts[:place], (drafts[place] + 1) % VOCAB, *drafts[place + 1 :]]


TEXT = [3, 1, 4]
RIGHT = decoded(TEXT, 4)


def test_right_drafts_are_kept_and_one_token_follows() -> None:
    """k drafts give k + 1 tokens."""
    assert verify([(TEXT, RIGHT)]) == [decoded(TEXT, 5)]


@pytest.mark.parametrize("place", range(4))
def test_the_first_wrong_draft_is_replaced(place: int) -> None:
    """What stood before it is kept, what came after it is dropped though its own row may agree."""
    assert verify([(TEXT, wrong_at(RIGHT, place))]) == [decoded(TEXT, place + 1)]


def test_wrong_drafts_cost_nothing() -> None:
    """One token, as without drafts."""
    wrong = [(token + 1) % VOCAB for token in RIGHT]
    assert verify([(TEXT, wrong)]) == verify([(TEXT, [])]) == [decoded(TEXT, 1)]


@pytest.mark.parametrize("place", range(4))
def test_an_invalid_draft_never_stands(place: int) -> None:
    """vLLM marks drafts that must not stand by -1."""
    invalid = [*RIGHT[:place], NOTHING, *RIGHT[place + 1 :]]
    assert verify([(TEXT, invalid)]) == [decoded(TEXT, place + 1)]


def test_a_draft_marked_invalid_is_dropped_though_the_sampler_agrees() -> None:
    """The grammar's verdict comes apart from the input token, which is the sampler's own choice."""
    config: Any = SimpleNamespace(
        num_speculative_tokens=2, enable_adaptive_verification=False, rejection_sample_method="standard"
    )
    sampler: Any = SimpleNamespace(sample=lambda logits, *rest: (torch.tensor([5, 6, 7]), logits))
    state = torch.zeros(1, dtype=torch.int64)
    _, tokens, counts = CoupledRejectionSampler(sampler, config, torch.device("cpu"))._verify(
        torch.zeros(3, VOCAB),
        None,
        torch.tensor([4, 5, 6]),
        torch.arange(3),
        torch.tensor([0, 3]),
        state,
        state.numpy(),
        state.repeat(3),
        torch.arange(3, dtype=torch.int32),
        state.numpy(),
        torch.tensor([4, 5, NOTHING]),
    )
    assert tokens.tolist() == [[5, 6, 7]]
    assert counts.tolist() == [2]


@pytest.mark.parametrize("width", [1, 2, 7, MAX_DRAFTS])
def test_ragged_batches(width: int) -> None:
    """Requests of any number of drafts, right up to any place, do not touch each other."""
    rng = random.Random(width)
    for _ in range(20):
        requests, want = [], []
        for _ in range(rng.randint(1, 8)):
            text = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))]
            drafts = decoded(text, rng.randint(0, width))
            place = rng.randint(0, len(drafts))
            if place < len(drafts):
                drafts = wrong_at(drafts, place)
            requests.append((text, drafts))
            want.append(decoded(text, place + 1))
        assert verify(requests, width) == want


def test_the_null_speculator_proposes_nothing() -> None:
    """Placeholders alone, a row for each request of the batch."""
    speculator = NullSpeculator(8, 3, torch.device("cpu"))
    batch: Any = SimpleNamespace(num_reqs=2)
    assert speculator.propose(batch, None, dummy_run=True).tolist() == [[NOTHING] * 3] * 2
