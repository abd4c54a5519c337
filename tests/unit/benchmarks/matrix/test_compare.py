"""A setting of the matrix, with both ends in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from benchmarks.differences import Continuation, Difference
from benchmarks.exactness.margin import Margin
from benchmarks.exactness.matrix import MAX_BATCH, Compared, Matrix, batches
from benchmarks.matrix.report import describe, matrix_json, summary
from benchmarks.matrix.settings import MATRIX
from benchmarks.harness.prompts import TokenisedPrompt
from edge_agent.fake_transport import FakeConnector, FakeTransport, fake_welcome
from edge_agent.generation import FinishReason, SamplingSettings
from pipesd_vllm.protocol import fingerprint

NUM_TOKENS = 24
WELCOME = fake_welcome(fingerprint([f"t{i}" for i in range(64)]))
PROMPTS = [TokenisedPrompt(f"p{i}", tuple(range(i + 1))) for i in range(12)]


def next_token(tokens: Sequence[int]) -> int:
    return len(tokens) * 7 % 50 + 4


class FakeReference:
    """Continues like the sessions, but for the prompts of the lengths in `differs`, at generated token 5."""

    def __init__(self, *differs: int) -> None:
        self.prefixes: list[Sequence[int]] = []
        self._differs = differs

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + sampling.max_tokens:
            tokens.append(next_token(tokens))
        text = tokens[len(prompt) :]
        if len(prompt) in self._differs:
            text[5] = 63
        return Continuation(tuple(text), "text", FinishReason.LENGTH)

    async def logits(self, prefix: Sequence[int]) -> Mapping[int, float]:
        self.prefixes.append(prefix)
        return {token: 2.0 if token == 63 else 1.75 for token in range(64)}


def matrix(reference: FakeReference, counted: list[int]) -> Matrix:
    lines = [FakeTransport(next_token, WELCOME) for _ in range(2 * len(PROMPTS))]
    return Matrix(reference, FakeConnector(lines), NUM_TOKENS, 0, lambda: counted.append(1))


async def test_identical_texts() -> None:
    """Every prompt is compared once, after drafts and a move, and both sides count as progress."""
    counted: list[int] = []
    found = await matrix(FakeReference(), counted).compare(MATRIX[0], PROMPTS)
    assert sorted(each.name for each in found) == sorted(prompt.name for prompt in PROMPTS)
    assert all(each.difference is None and each.rebuilt for each in found)
    assert any(each.accepted for each in found)
    assert len(counted) == 2 * len(PROMPTS)
    assert {each.batch_size for each in found} == {8, 1, 3}


async def test_a_difference_is_found_and_measured() -> None:
    """The server is asked about the position where the two part."""
    reference = FakeReference(3)
    found = await matrix(reference, []).compare(MATRIX[0], PROMPTS)
    [different] = [each for each in found if each.difference is not None]
    ours = next_token(range(3 + 5))
    assert (different.name, different.difference) == ("p2", Difference(5, 63, ours))
    assert different.margin == Margin(pytest.approx(0.25))
    [prefix] = reference.prefixes
    assert len(prefix) == 3 + 5


def test_batches_are_of_every_size() -> None:
    """Forty prompts make batches of one to eight, each prompt in one of them."""
    made = list(batches(range(40)))
    assert {len(batch) for batch in made} == set(range(1, MAX_BATCH + 1))
    assert [i for batch in made for i in batch] == list(range(40))


def test_the_report() -> None:
    """Counts by setting and in total, and differences with their reason."""
    results = [
        Compared("T=1,top_p=1,plain", "p0", 0, 8, 100, 60, True),
        Compared("T=1,top_p=1,plain", "p1", 1, 1, 50, 10, True, Difference(3, 1, 2), Margin(0.0001)),
        Compared("T=0,top_p=1,plain", "p0", 0, 2, 0, 0, False, Difference(8, 1, None)),
    ]
    assert summary("all", results) == "all: identical 1/3 (70 of 150 drafts accepted, 2 sessions rebuilt)"
    shown = [describe(each, 0.001, lambda token: f"t{token}") for each in results[1:]]
    assert "p1, seed 1, batch of 1: differs at generated token 3, target alone 't1' (1)" in shown[0]
    assert "near-tie (+0.000100 nats apart)" in shown[0]
    assert "session (ended): unexplained" in shown[1]
    report = matrix_json(results, 96, "float32")
    assert (report["num_identical"], report["num_compared"]) == (1, 3)
    assert report["settings"]["T=1,top_p=1,plain"]["num_identical"] == 1
    assert report["differences"][0]["margin"] == {"by_score": 0.0001, "to_edge": None}
