"""The coupled samplers among vLLM's own, on made-up logits: no engine, no model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipesd_vllm.worker.coupled_batch import Seat
from pipesd_vllm.worker.coupled_sampler import CoupledRejectionSampler, CoupledSampler
from pipesd_vllm.worker.sampling_rule import SamplingRule
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler

from benchmarks.micro.sampler_inputs import prepare_cpu_kernels, sampling_metadata, verify_step
from tests.devices import on_vllms_device

VOCAB_SIZE = 300
RULES = [
    SamplingRule(seed=3, temperature=1.0, top_p=0.9),
    SamplingRule(),
    SamplingRule(seed=-1, temperature=0.7),
]


class FakeBatch:
    """A batch in which the requests named in `rules` have a seat."""

    def __init__(self, rules: dict[int, SamplingRule]) -> None:
        self.rules = rules

    def seats(self) -> list[Seat]:
        tokens = np.arange(10, dtype=np.int32)
        return [Seat(index, rule, tokens, 6) for index, rule in sorted(self.rules.items())]


def rows(count: int, device: str) -> torch.Tensor:
    return torch.randn(count, VOCAB_SIZE, generator=torch.Generator().manual_seed(7)).to(device) * 3


@pytest.fixture(autouse=True, scope="module")
def _cpu_kernels() -> None:
    if not torch.cuda.is_available():
        prepare_cpu_kernels()


def samplers(rules: dict[int, SamplingRule], device: str) -> tuple[CoupledSampler, CoupledRejectionSampler]:
    batch = FakeBatch(rules)
    stock = RejectionSampler(Sampler(), device=torch.device(device))
    rejection = CoupledRejectionSampler(stock, batch, None, torch.device(device))
    return CoupledSampler(stock.sampler, batch), rejection


def one_by_one(rule: SamplingRule, logits: torch.Tensor, index: int) -> int:
    """The token of one row, drawn as the first of a step without drafts."""
    tokens = np.arange(10 + index, dtype=np.int32)

    class Single:
        def seats(self) -> list[Seat]:
            return [Seat(0, rule, tokens, 6)]

    sampler = CoupledSampler(Sampler(), Single())
    output = sampler(logits[None].clone(), sampling_metadata(1, device=logits.device))
    return int(output.sampled_token_ids)


@on_vllms_device
@pytest.mark.parametrize("others", [0, 2])
def test_a_verify_step_is_the_same_as_its_rows_one_by_one(others: int, device: str) -> None:
    """Drafts are kept while they are what each row's own draw gives, in batches with and without others."""
    rules = {index + others: rule for index, rule in enumerate(RULES)}
    counts = [1] * others + [4, 4, 1]
    logits = rows(sum(counts), device)
    starts = np.cumsum([0, *counts])
    drawn = {
        index: [one_by_one(rule, logits[starts[index] + j], j) for j in range(counts[index])]
        for index, rule in rules.items()
    }
    first, second, third = rules
    drafts: list[list[int]] = [[] for _ in counts]
    drafts[first] = drawn[first][:3]
    drafts[second] = [drawn[second][0], drawn[second][1] + 1, 5]
    _, rejection = samplers(rules, device)
    output = rejection(
        verify_step(drafts, device), None, logits.clone(), sampling_metadata(len(counts), device=device)
    )
    sampled = output.sampled_token_ids.tolist()
    assert sampled[first] == drawn[first]
    assert sampled[second] == [*drawn[second][:2], -1, -1]
    assert sampled[third] == [drawn[third][0], -1, -1, -1]
    for index in range(others):
        assert sampled[index][0] == int(logits[starts[index]].argmax())


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("max_num_logprobs", [None, 2])
def test_a_request_that_cannot_be_sampled_has_no_token(others: int, max_num_logprobs: int | None) -> None:
    """A rule that raises leaves its row empty; the rows of the others are what they are without it."""

    def drawn(broken: SamplingRule) -> list[list[int]]:
        rules = {others: RULES[0], others + 1: broken, others + 2: RULES[2]}
        _, rejection = samplers(rules, "cpu")
        drafts = [*([1] for _ in range(others)), [3, 4], [5, 6], []]
        num_rows = sum(len(each) + 1 for each in drafts)
        metadata = sampling_metadata(len(drafts), device="cpu", max_num_logprobs=max_num_logprobs)
        output = rejection(verify_step(drafts, "cpu"), None, rows(num_rows, "cpu"), metadata)
        tokens, _ = RejectionSampler.parse_output(output.sampled_token_ids, VOCAB_SIZE)
        return tokens

    tokens, expected = drawn(SamplingRule(allowed_token_ids=[VOCAB_SIZE + 5])), drawn(SamplingRule())
    assert tokens[others + 1] == []
    expected[others + 1] = []
    assert tokens == expected


@on_vllms_device
def test_other_requests_keep_their_own_draws(device: str) -> None:
    """A seeded request of vLLM's own draws the same tokens beside a session and without one."""

    def drawn(rules: dict[int, SamplingRule]) -> tuple[int, int]:
        generators = {index: torch.Generator(device).manual_seed(5) for index in range(2)}
        sampler, rejection = samplers(rules, device)
        warm = sampling_metadata(2, 0.8, device=device, generators=generators)
        plain = sampler(rows(2, device), warm)
        verified = rejection(verify_step([[4, 4], []], device), None, rows(4, device), warm)
        return int(plain.sampled_token_ids[1]), int(verified.sampled_token_ids[1, 0])

    assert drawn({0: RULES[0]}) == drawn({})


@on_vllms_device
def test_log_probabilities_of_sessions_and_others_stand_in_their_places(device: str) -> None:
    """With and without drafts each token is reported with its own log-probability and rank."""
    sampler, rejection = samplers({1: SamplingRule(seed=1, temperature=1.0, presence_penalty=1.0)}, device)
    wanted = sampling_metadata(2, device=device, max_num_logprobs=2)
    logits = rows(2, device)
    output = sampler(logits.clone(), wanted)
    _check_report(output.logprobs_tensors, output.sampled_token_ids.ravel().tolist(), logits)
    logits = rows(5, device)
    spec = verify_step([[3], [4, 5]], device)
    output = rejection(spec, None, logits.clone(), wanted)
    tokens, lists = RejectionSampler.parse_output(
        output.sampled_token_ids, VOCAB_SIZE, logprobs_tensors=output.logprobs_tensors
    )
    assert lists is not None
    kept = [*range(len(tokens[0])), *range(2, 2 + len(tokens[1]))]
    expected = logits.log_softmax(-1)[kept]
    committed = [*tokens[0], *tokens[1]]
    own = [float(row[token]) for row, token in zip(expected, committed, strict=True)]
    assert lists.logprobs[:, 0].tolist() == pytest.approx(own)
    assert lists.logprob_token_ids[:, 0].tolist() == committed


def _check_report(report: object, tokens: list[int], logits: torch.Tensor) -> None:
    expected = logits.log_softmax(-1)
    for row, token in enumerate(tokens):
        assert report.logprob_token_ids[row, 0] == token  # type: ignore[attr-defined]
        assert float(report.logprobs[row, 0]) == pytest.approx(float(expected[row, token]))  # type: ignore[attr-defined]
        rank = int((expected[row] > expected[row, token]).sum()) + 1
        assert int(report.selected_token_ranks[row]) == rank  # type: ignore[attr-defined]
        assert report.logprobs[row, 1:].tolist() == pytest.approx(  # type: ignore[attr-defined]
            expected[row].topk(2).values.tolist()
        )
