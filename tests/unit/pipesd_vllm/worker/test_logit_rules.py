"""What a rule does to logits, row by row, against the definitions written out for one row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipesd_vllm.worker.logit_rules import adjust
from pipesd_vllm.worker.sampling_rule import SamplingRule

from tests.devices import on_each_device

VOCAB_SIZE = 30
PROMPT = np.array([1, 2, 3, 3], np.int32)
GENERATED = [5, 5, 6]
DRAFTS = [7, 5, 1]
NEVER = float("-inf")


def logits() -> torch.Tensor:
    return torch.randn(len(DRAFTS) + 1, VOCAB_SIZE, generator=torch.Generator().manual_seed(2)) * 3


def adjusted(rule: SamplingRule, device: str = "cpu") -> torch.Tensor:
    rows = logits().to(device)
    adjust(rows, rule, PROMPT, GENERATED + DRAFTS)
    return rows.cpu()


@on_each_device
def test_penalties_count_the_drafts_before_each_row(device: str) -> None:
    """Row j is penalised for the tokens so far and j drafts, in the order of vLLM."""
    rule = SamplingRule(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5)
    expected = logits()
    for row in range(len(DRAFTS) + 1):
        past = GENERATED + DRAFTS[:row]
        for token in range(VOCAB_SIZE):
            value = float(expected[row, token])
            if token in past or token in PROMPT:
                value = value / 1.5 if value > 0 else value * 1.5
            value -= 0.25 * past.count(token) + 0.5 * (token in past)
            expected[row, token] = value
    torch.testing.assert_close(adjusted(rule, device), expected)


def test_without_a_repetition_penalty_the_prompt_does_not_count() -> None:
    """Presence and frequency penalties look at generated tokens alone."""
    changed = adjusted(SamplingRule(presence_penalty=1.0)) != logits()
    assert set(changed[0].nonzero().ravel().tolist()) == {5, 6}
    assert set(changed[3].nonzero().ravel().tolist()) == {1, 5, 6, 7}


@on_each_device
def test_bad_words_look_at_what_stands_before_each_row(device: str) -> None:
    """The last token of a bad word is out exactly where its beginning has been generated or drafted."""
    rows = adjusted(SamplingRule(bad_words=[[9], [6, 10], [6, 7, 11], [2, 12], [5, 1, 13]]), device)
    forbidden = [set((row == NEVER).nonzero().ravel().tolist()) for row in rows]
    assert forbidden == [{9, 10}, {9, 11}, {9}, {9, 13}]


@on_each_device
@pytest.mark.parametrize(("min_tokens", "num_closed"), [(0, 0), (3, 0), (4, 1), (6, 3), (99, 4)])
def test_stop_tokens_wait_for_min_tokens(min_tokens: int, num_closed: int, device: str) -> None:
    """Stop tokens are out in the rows whose token would come too early."""
    rows = adjusted(SamplingRule(min_tokens=min_tokens, stop_token_ids=[4, 8]), device)
    closed = (rows[:, [4, 8]] == NEVER).all(1)
    assert closed.tolist() == [True] * num_closed + [False] * (4 - num_closed)
    assert (rows == NEVER).sum() == 2 * num_closed


@on_each_device
def test_allowed_tokens_and_biases(device: str) -> None:
    """Only allowed tokens keep their logits, biased ones are moved."""
    rows = adjusted(SamplingRule(allowed_token_ids=[2, 4], logit_bias={4: 1.5, 6: 99.0}), device)
    expected = torch.full_like(rows, NEVER)
    expected[:, [2, 4]] = logits()[:, [2, 4]]
    expected[:, 4] += 1.5
    assert torch.equal(rows, expected)


def test_an_empty_rule_changes_nothing() -> None:
    """Without anything to adjust the logits stay as they are, and the rule says so."""
    assert torch.equal(adjusted(SamplingRule()), logits())
    assert not SamplingRule(temperature=1.0, top_p=0.5, top_k=3, min_p=0.1).adjusts


def test_placeholders_are_no_tokens() -> None:
    """vLLM's -1 in the place of a draft is counted for no token, the last of the vocabulary included."""
    rows = torch.ones(3, VOCAB_SIZE)
    adjust(rows, SamplingRule(presence_penalty=0.5), PROMPT, [*GENERATED, -1, -1])
    assert rows[:, VOCAB_SIZE - 1].tolist() == [1.0, 1.0, 1.0]
    assert rows[:, 5].tolist() == [0.5, 0.5, 0.5]
