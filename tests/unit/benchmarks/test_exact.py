"""The run of `bench exact`: real gateway, scripted agent, faked server."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import pytest
from rich.console import Console

from benchmarks.differences import Continuation, Difference
from benchmarks.exactness.exact import Checked, describe
from benchmarks.exact_run import ExactPlan, check_all, exact_json
from benchmarks.harness.prompts import Prompt
from edge_agent.generation import FinishReason, SamplingSettings
from edge_agent.settings import EdgeSettings
from openai_gateway.cli.errors import CliError
from tests.unit.benchmarks.conftest import ConnectPair

TEXT = "hello world, hello you"
SAMPLING = SamplingSettings(40, ignore_eos=True)


class FakePlain:
    """A server that continues with `text`, and whose next-token choices are all near-ties."""

    def __init__(self, text: str, token_ids: Callable[[str], Sequence[int]]) -> None:
        self._continuation = Continuation(tuple(token_ids(text)), text, FinishReason.LENGTH)
        self.prefixes: list[Sequence[int]] = []

    async def complete(self, prompt: Sequence[int], sampling: SamplingSettings) -> Continuation:
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
    return ExactPlan((prompts,), num, SAMPLING, 0.05, "float32")


async def test_identical(
    connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]], out: Console
) -> None:
    """Tokens by way of the agent and text by way of the gateway are compared with the server's."""
    async with connect_pair(TEXT, TEXT) as pair:
        results = await check_all(pair, FakePlain(TEXT, token_ids), plan("fox", "hello", "you"), out)
    assert [(r.name, r.difference) for r in results] == [("p0", None), ("p1", None)]
    assert "p1: identical" in printed(out)


async def test_a_difference_is_explained(
    connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]], out: Console
) -> None:
    """The server is asked about the position where the two part, after their common prefix."""
    plain = FakePlain("hello fox", token_ids)
    async with connect_pair(TEXT, TEXT) as pair:
        [result] = await check_all(pair, plain, plan("you", num=1), out)
    assert result.difference is not None
    position = result.difference.position
    assert plain.prefixes == [(*token_ids("you"), *token_ids("hello fox")[:position])]
    assert result.gap_nats == 0.0
    assert "near-tie" in printed(out)


async def test_too_long_prompts_are_skipped_aloud(
    connect_pair: ConnectPair, token_ids: Callable[[str], Sequence[int]], out: Console
) -> None:
    """The next ones take their place, and a shortage is said."""
    async with connect_pair(TEXT, TEXT) as pair:
        results = await check_all(pair, FakePlain(TEXT, token_ids), plan("hello" * 40, "fox"), out)
        with pytest.raises(CliError, match="None of the prompts fits"):
            await check_all(pair, FakePlain(TEXT, token_ids), plan("hello" * 40), out)
    assert [r.name for r in results] == ["p1"]
    assert "p0: skipped" in printed(out)
    assert "only 1 prompts were there and fit, 2 were wanted" in printed(out)


@pytest.mark.parametrize(
    ("checked", "words"),
    [
        (Checked("p", 8, None), "p: identical, 8 tokens"),
        (Checked("p", 8, Difference(3, 1, 2), 0.01), "token 3, plain 't1' (1), ours 't2' (2): near-tie"),
        (Checked("p", 8, Difference(3, 1, 2), 0.2), "unexplained (the target alone sees them +0.2000 nats"),
        (Checked("p", 8, Difference(3, 1, 2), None), "unexplained (they are not both among the most likely)"),
        (Checked("p", 8, Difference(3, None, 2)), "plain (ended), ours 't2' (2): unexplained"),
        (Checked("p", 8, Difference(8, None, None)), "text or finish reason are not: unexplained"),
    ],
)
def test_describe(checked: Checked, words: str) -> None:
    """Position, tokens and reason, in one line."""
    assert words in describe(checked, 0.05, lambda token: f"t{token}")


def test_json() -> None:
    """Differences are written out."""
    results = [Checked("p0", 8, None), Checked("p1", 8, Difference(3, 1, 2), 0.01)]
    report = exact_json(results, plan(), EdgeSettings(cloud_url="http://server:1"), "org/target")
    assert (report["num_identical"], report["num_compared"]) == (1, 2)
    assert report["differences"][0]["difference"] == {"position": 3, "plain_token": 1, "our_token": 2}
    assert report["settings"]["dtype"] == "float32"
