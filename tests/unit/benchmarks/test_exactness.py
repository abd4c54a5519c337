"""Exactness: comparing texts, `bench exact` on real gateways with scripted agents, the matrix in memory."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from rich.console import Console

from benchmarks.exactness.comparison import (
    Continuation,
    Difference,
    Margin,
    TargetAlone,
    first_difference,
    logprob_gap,
    margin_of,
    near_tie_nats,
    told,
)
from benchmarks.exactness.drafts import KINDS, DraftMaker
from benchmarks.exactness.exact import Checked, ExactPlan, check_all, exact_json
from benchmarks.exactness.matrix import (
    MATRIX,
    Compared,
    Matrix,
    batches,
    matrix_json,
    run_session,
    selected,
    summary,
)
from benchmarks.harness.clients import Client
from benchmarks.harness.prompts import Prompt, TokenisedPrompt
from edge_agent.api import FinishReason, GenerationStats, Sampling
from edge_agent.errors import CloudMisbehaved
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeConnector, FakeTransport, fake_welcome
from openai_gateway.cli.errors import CliError
from pipesd_vllm.wire import (
    Commit,
    Draft,
    Open,
    Structure,
    StructureKind,
    decode_upstream,
    encode,
    fingerprint,
)
from pipesd_vllm.wire.noise import gumbel
from tests.unit.benchmarks.conftest import ConnectPair

TokenIds = Callable[[str], Sequence[int]]

# -- comparing ------------------------------------------------------------------------------


def continuation(*token_ids: int, text: str = "", reason: FinishReason = FinishReason.LENGTH) -> Continuation:
    return Continuation(token_ids, text, reason)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (continuation(1, 2, 3), None),
        (continuation(1, 9, 3), Difference(1, 2, 9)),
        (continuation(1, 2), Difference(2, 3, None)),
        (continuation(1, 2, 3, 4), Difference(3, None, 4)),
        (continuation(1, 2, 3, text="other"), Difference(3, None, None)),
        (continuation(1, 2, 3, reason=FinishReason.STOP), Difference(3, None, None)),
    ],
)
def test_first_difference(ours: Continuation, expected: Difference | None) -> None:
    """The first token that differs, else what is left: length, text, finish reason."""
    assert first_difference(continuation(1, 2, 3), ours) == expected


def test_coarse_numbers_have_wider_ties() -> None:
    """A bfloat16 logit moves in steps of up to 0.125, which a server may have chosen by itself."""
    assert near_tie_nats("bfloat16") == near_tie_nats(None) == near_tie_nats("auto") == 0.25
    assert near_tie_nats("float32") < 0.001


LOGITS = {0: 3.0, 1: 2.0, 2: 1.0, 3: -1.0}
PROMPT, GENERATED = (0, 3), (1, 1)


def lead(sampling: Sampling, plain: int = 0, ours: int = 1) -> Margin:
    found = margin_of(LOGITS, sampling, PROMPT, GENERATED, plain, ours)
    assert found is not None
    return found


def test_penalties_count() -> None:
    """Each as the target applies it: repetition by the logit's sign, prompt included; the others by count."""
    assert lead(Sampling(8, top_p=0.5)) == Margin(pytest.approx(1.0))  # greedy: no noise, no edge
    assert lead(Sampling(8, repetition_penalty=2.0)).by_score == pytest.approx(1.5 - 1.0)
    assert lead(Sampling(8, repetition_penalty=2.0), 2, 3).by_score == pytest.approx(1.0 + 2.0)
    assert lead(Sampling(8, frequency_penalty=0.5)).by_score == pytest.approx(1.0 + 1.0)
    assert lead(Sampling(8, presence_penalty=0.5)).by_score == pytest.approx(1.0 + 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_noise_of_the_position_counts(temperature: float) -> None:
    """In nats of logit: the noise is scaled by the temperature."""
    noise = gumbel(7, len(PROMPT) + len(GENERATED) - 1, np.array([0, 1]))
    expected = 1.0 + temperature * float(noise[0] - noise[1])
    assert lead(Sampling(8, temperature, seed=7)) == Margin(pytest.approx(expected))


def test_the_edge_of_the_nucleus() -> None:
    """A token that just about is in or out explains a difference, however far the scores are apart."""
    shares = np.exp(list(LOGITS.values())) / np.exp(list(LOGITS.values())).sum()
    within = Sampling(8, 1.0, top_p=float(shares[0]) - 0.01, seed=7)
    assert lead(within).to_edge == pytest.approx(0.0, abs=1e-4)
    assert lead(within).is_tie(0.001)
    assert not Margin(-0.4, 0.2).is_tie(0.001)


def test_what_is_not_known() -> None:
    """A server may tell the most likely tokens only."""
    assert margin_of(LOGITS, Sampling(8), PROMPT, GENERATED, 0, 9) is None
    penalised = Sampling(8, presence_penalty=1.0)
    assert margin_of(LOGITS, penalised, (70, 80), (90,), 0, 1) == Margin(1.0)


# -- the target alone -----------------------------------------------------------------------


class Vllm:
    """Answers every request with one choice and remembers what it was asked."""

    def __init__(self, **choice: Any) -> None:
        self.choice = {"text": "ab", "finish_reason": "length", "logprobs": None, **choice}
        self.asked: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        self.asked = json.loads(request.content)
        return httpx.Response(200, json={"id": "1", "choices": [self.choice]})

    def alone(self) -> TargetAlone:
        transport = httpx.MockTransport(self)
        return TargetAlone(Client(httpx.AsyncClient(base_url="http://server", transport=transport)))


async def test_the_server_is_asked_for_tokens_and_our_seed() -> None:
    """Nobody's defaults count, and the server's own API is told of nothing that is ours."""
    vllm = Vllm(token_ids=[7, 8])
    greedy = Sampling(2, ignore_eos=True)
    assert await vllm.alone().complete((1, 2), greedy) == Continuation((7, 8), "ab", FinishReason.LENGTH)
    assert vllm.asked.items() >= {"prompt": [1, 2], "return_token_ids": True, "ignore_eos": True}.items()
    assert (vllm.asked["repetition_penalty"], vllm.asked["seed"]) == (1.0, None)
    biased = Sampling(4, 0.7, 0.9, seed=11, presence_penalty=0.5, min_p=0.1, logit_bias={3: -1.0})
    await vllm.alone().complete((1, 2), biased)
    assert (vllm.asked["seed"], vllm.asked["min_p"], vllm.asked["logit_bias"]) == (11, 0.1, {"3": -1.0})
    assert "vllm_xargs" not in vllm.asked
    assert (vllm.asked["temperature"], vllm.asked["top_p"], vllm.asked["presence_penalty"]) == (0.7, 0.9, 0.5)


async def test_log_probabilities_and_forms_are_asked_for() -> None:
    """By vLLM's names; what is told comes by token id."""
    vllm = Vllm(token_ids=[7], logprobs={"top_logprobs": [{"token_id:7": -0.1, "token_id:9": -2.5}]})
    form = Structure(StructureKind.JSON_SCHEMA, "{}")
    found = await vllm.alone().complete((1, 2), Sampling(1, logprobs=2, structure=form))
    assert found.logprobs == ({7: -0.1, 9: -2.5},)
    assert (vllm.asked["logprobs"], vllm.asked["structured_outputs"]) == (2, {"json": "{}"})


def test_log_probabilities_are_compared_as_far_as_the_texts_agree() -> None:
    """Of tokens that both sides tell of; texts are equal whatever they are."""
    plain = Continuation((1, 2, 3), "", None, ({1: -0.5, 8: -1.0}, {2: -0.5}, {3: -0.5}))
    ours = Continuation((1, 2, 4), "", None, ({1: -0.5, 8: -1.25}, {2: -0.625, 9: -7.0}, {3: -9.0}))
    assert logprob_gap(plain, ours) == 0.25
    assert logprob_gap(plain, Continuation((1, 2, 3), "", None)) is None
    assert plain == Continuation((1, 2, 3), "", None)


async def test_the_most_likely_tokens() -> None:
    """Log-probabilities come by token id, from one fresh token."""
    vllm = Vllm(logprobs={"top_logprobs": [{"token_id:7": -0.1, "token_id:9": -2.5}]})
    assert await vllm.alone().most_likely((1, 2)) == {7: -0.1, 9: -2.5}
    assert (vllm.asked["max_tokens"], vllm.asked["temperature"]) == (1, 0.0)


async def test_other_servers_are_found_out() -> None:
    """A server without vLLM's extensions ends in a sentence."""
    with pytest.raises(CliError, match="no token ids"):
        await Vllm().alone().complete((1,), Sampling(1))
    with pytest.raises(CliError, match="no log-probabilities"):
        await Vllm().alone().most_likely((1,))


# -- through the gateway --------------------------------------------------------------------

TEXT = "hello world, hello you"


class FakePlain:
    """A server that continues with `text`, and whose next-token choices are all near-ties."""

    def __init__(self, text: str, token_ids: TokenIds) -> None:
        self._continuation = Continuation(tuple(token_ids(text)), text, FinishReason.LENGTH)
        self.prefixes: list[Sequence[int]] = []

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Continuation:
        return self._continuation

    async def most_likely(self, prefix: Sequence[int]) -> Mapping[int, float]:
        self.prefixes.append(prefix)
        return dict.fromkeys(range(400), -1.0)


@pytest.fixture
def out() -> Console:
    return Console(file=io.StringIO(), width=200, color_system=None, markup=False, highlight=False)


def printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def plan(*texts: str, num: int = 2) -> ExactPlan:
    prompts = tuple(Prompt(f"p{i}", text, is_chat=False) for i, text in enumerate(texts))
    return ExactPlan((prompts,), num, Sampling(40, ignore_eos=True), 0.05, "float32")


async def test_identical(connect_pair: ConnectPair, token_ids: TokenIds, out: Console) -> None:
    """Tokens by way of the agent and text by way of the gateway are compared with the server's."""
    async with connect_pair(TEXT, TEXT) as pair:
        results = await check_all(pair, FakePlain(TEXT, token_ids), plan("fox", "hello", "you"), out)
        with pytest.raises(CliError, match="None of the prompts fits"):
            await check_all(pair, FakePlain(TEXT, token_ids), plan("hello" * 40), out)
    assert [(r.name, r.difference) for r in results] == [("p0", None), ("p1", None)]
    assert "p1: identical" in printed(out)


async def test_a_difference_is_explained(
    connect_pair: ConnectPair, token_ids: TokenIds, out: Console
) -> None:
    """The server is asked about the position where the two part, after their common prefix."""
    plain = FakePlain("hello fox", token_ids)
    async with connect_pair(TEXT, TEXT) as pair:
        [result] = await check_all(pair, plain, plan("you", num=1), out)
    assert result.difference is not None
    position = result.difference.position
    assert plain.prefixes == [(*token_ids("you"), *token_ids("hello fox")[:position])]
    assert result.margin == Margin(0.0)
    assert "near-tie" in printed(out)


@pytest.mark.parametrize(
    ("difference", "margin", "words"),
    [
        (Difference(3, 1, 2), Margin(0.01), "token 3, target alone 't1' (1), ours 't2' (2): near-tie (+0.01"),
        (Difference(3, 1, 2), Margin(0.2), "unexplained (+0.200000 nats apart)"),
        (Difference(3, 1, 2), None, "unexplained (the target does not tell how close they are)"),
        (Difference(3, None, 2), None, "target alone (ended), ours 't2' (2): unexplained"),
        (Difference(8, None, None), None, "text or finish reason are not: unexplained"),
    ],
)
def test_told(difference: Difference, margin: Margin | None, words: str) -> None:
    """Position, tokens and reason, in one line."""
    assert words in told("p", difference, margin, 0.05, lambda tokens: f"t{tokens[0]}")


def test_json() -> None:
    """Differences are written out."""
    stats = GenerationStats(completion_tokens=8, target_passes=2)
    results = [Checked("p0", 8, None, stats=stats), Checked("p1", 8, Difference(3, 1, 2), Margin(0.01))]
    report = exact_json(results, plan(), EdgeSettings(cloud_url="http://server:1"), "org/target")
    assert (report["num_identical"], report["num_compared"], report["identical"]) == (1, 2, False)
    assert report["target_passes_per_token"] == 0.25
    assert exact_json(results[:1], plan(), EdgeSettings(cloud_url="http://server:1"), "t")["identical"]
    [different] = report["differences"]
    assert different["difference"] == {"position": 3, "plain_token": 1, "our_token": 2}
    assert different["gap_nats"] == 0.01
    assert report["settings"]["dtype"] == "float32"


# -- random drafts --------------------------------------------------------------------------

TRUTH = list(range(50, 80))
PROMPT_LENGTH = 6
DONE = 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0, DONE, len(TRUTH)])
def test_every_kind_is_in_the_protocol(kind: str, done: int) -> None:
    """A server may find a frame useless, but never malformed, not even at the ends of a text."""
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    for length in (1, 2, 12):
        for frame in maker.frames(kind, length, done):
            assert decode_upstream(encode(frame)) == frame


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("duplicate", "reused_ids")])
def test_node_ids_are_fresh(kind: str) -> None:
    """No two frames share an id, nor does one after a frame under reused ids."""
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    frames = [frame for _ in range(5) for frame in maker.frames(kind, 4, DONE)]
    used = [frame.first + i for frame in frames for i in range(len(frame.tokens))]
    assert len(set(used)) == len(used)
    [reused] = maker.frames("reused_ids", 30, DONE)
    [fresh] = maker.frames("right", 5, DONE)
    assert fresh.first > reused.first + len(reused.tokens) - 1


def test_right_wrong_and_in_disorder() -> None:
    """Right drafts follow the truth, wrong ones never, half ones up to the middle; others start elsewhere."""

    def made(kind: str) -> list[Draft]:
        return DraftMaker(1, PROMPT_LENGTH, TRUTH).frames(kind, 6, DONE)

    [right], [wrong], [half] = made("right"), made("wrong"), made("half")
    frontier = PROMPT_LENGTH + DONE
    assert (right.base, right.anchor, right.tokens) == (frontier, 0, TRUTH[DONE : DONE + 6])
    assert not any(a == b for a, b in zip(wrong.tokens, right.tokens, strict=True))
    assert half.tokens[:3] == right.tokens[:3]
    assert half.tokens[3:] != right.tokens[3:]
    assert [made(kind)[0].base - frontier for kind in ("stale", "ahead", "shuffled")] == [-3, 2, 1]
    assert made("foreign_turn")[0].turn == 2
    maker = DraftMaker(1, PROMPT_LENGTH, TRUTH)
    assert maker.frames("wrong", 3, DONE) == maker.frames("duplicate", 5, DONE + 1)


# -- the matrix -----------------------------------------------------------------------------

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

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Continuation:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + sampling.max_tokens:
            tokens.append(next_token(tokens))
        text = tokens[len(prompt) :]
        if len(prompt) in self._differs:
            text[5] = 63
        return Continuation(tuple(text), "text", FinishReason.LENGTH)

    async def most_likely(self, prefix: Sequence[int]) -> Mapping[int, float]:
        self.prefixes.append(prefix)
        return {token: 2.0 if token == 63 else 1.75 for token in range(64)}


def matrix(reference: FakeReference) -> Matrix:
    lines = [FakeTransport(next_token, WELCOME) for _ in range(2 * len(PROMPTS))]
    return Matrix(reference, FakeConnector(lines), NUM_TOKENS, 0)


async def test_identical_sessions() -> None:
    """Every prompt is compared once, after drafts and a move, in batches of several sizes."""
    found = await matrix(FakeReference()).compare(MATRIX[0], PROMPTS)
    assert sorted(each.name for each in found) == sorted(prompt.name for prompt in PROMPTS)
    assert all(each.difference is None and each.rebuilt for each in found)
    assert any(each.accepted for each in found)
    assert {each.batch_size for each in found} == {8, 1, 3}
    made = list(batches(range(40)))
    assert {len(batch) for batch in made} == set(range(1, 9))
    assert [i for batch in made for i in batch] == list(range(40))


async def test_a_session_that_differs_is_measured() -> None:
    """The server is asked about the position where the two part."""
    reference = FakeReference(3)
    found = await matrix(reference).compare(MATRIX[0], PROMPTS)
    [different] = [each for each in found if each.difference is not None]
    assert (different.name, different.difference) == ("p2", Difference(5, 63, next_token(range(3 + 5))))
    assert different.margin == Margin(pytest.approx(0.25))
    assert [len(prefix) for prefix in reference.prefixes] == [3 + 5]


@pytest.mark.parametrize("number", range(10))
async def test_the_stream_is_the_targets_and_crosses_connections(number: int) -> None:
    """Whatever is drafted, all tokens come once and in order, the second half on a connection of its own."""
    lines = [FakeTransport(next_token, WELCOME) for _ in range(2)]
    truth = (await FakeReference().complete([1, 2, 3], Sampling(40))).token_ids
    run = await run_session(FakeConnector(lines), [1, 2, 3], Sampling(40), truth, random.Random(number))
    assert tuple(run.tokens) == truth
    assert run.finished
    assert run.rebuilt
    assert not any(line.is_open for line in lines)
    [again] = [message for message in lines[1].sent if isinstance(message, Open)]
    assert again.committed
    assert tuple(again.committed) == truth[: len(again.committed)]
    assert any(isinstance(message, Draft) for line in lines for message in line.sent)


async def test_a_gap_in_the_stream_is_an_error() -> None:
    """Tokens that do not follow the last ones are not taken."""
    line = FakeTransport(next_token, WELCOME)
    line.push(Commit(1, 4, [9]))
    with pytest.raises(CloudMisbehaved, match="position 4, not at 3"):
        await run_session(FakeConnector([line]), [1, 2, 3], Sampling(40), range(40), random.Random(1))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (None, 24),
        (["T=0"], 8),
        (["T=1,top_p=0.9"], 4),
        (["plain"], 6),
        (["T=0.7,top_p=1,penalties"], 1),
        (["T=0", "plain"], 12),
    ],
)
def test_parts_of_a_name_choose_cells(names: list[str] | None, count: int) -> None:
    """A name stands for all cells that have its parts; none comes twice; greedy cells have no seed."""
    cells = selected(names)
    assert len(cells) == len(set(cells)) == count
    assert all((cell.sampling(8, 5).seed is None) == (cell.temperature == 0) for cell in cells)


def test_an_unknown_cell() -> None:
    """It is refused with the names there are."""
    with pytest.raises(CliError, match=r"'T=2'.*T=0,top_p=1,plain"):
        selected(["T=2"])


def test_the_matrixs_report() -> None:
    """Counts by setting and in total, and differences with their reason."""
    results = [
        Compared("T=1,top_p=1,plain", "p0", 0, 8, 100, 60, True),
        Compared("T=1,top_p=1,plain", "p1", 1, 1, 50, 10, True, Difference(3, 1, 2), Margin(0.0001)),
        Compared("T=0,top_p=1,plain", "p0", 0, 2, 0, 0, False, Difference(8, 1, None)),
    ]
    assert summary("all", results) == "all: identical 1/3 (70 of 150 drafts accepted, 2 sessions rebuilt)"
    report = matrix_json(results, 96, "float32")
    assert (report["num_identical"], report["num_compared"]) == (1, 3)
    assert report["settings"]["T=1,top_p=1,plain"]["num_identical"] == 1
    assert report["differences"][0]["margin"] == {"by_score": 0.0001, "to_edge": None}
