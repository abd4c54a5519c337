"""What the demo shows, on scripted generations."""

import io

from rich.console import Console

from benchmarks.demo import present
from tests.unit.benchmarks.conftest import ConnectPair

QUESTION = "Is [this] a fox?"


async def shown(connect_pair: ConnectPair, ours: str, plain: str) -> str:
    out = Console(file=io.StringIO(), width=100, color_system=None, highlight=False)
    async with connect_pair(ours, plain) as pair:
        await present(pair, QUESTION, 30, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


async def test_question_answer_and_table(connect_pair: ConnectPair) -> None:
    """The question is shown as typed, then the answer, then all figures."""
    printed = await shown(connect_pair, "hello [world]", "hello [world]")
    assert f"You: {QUESTION}" in printed
    assert "org/target: hello [world]\n" in printed
    for label in ("TTFT", "TPT", "tokens/s", "acceptance", "target passes", "bytes up", "plain streaming"):
        assert label in printed
    assert "are the same" in printed


async def test_a_difference_is_not_hidden(connect_pair: ConnectPair) -> None:
    """It says where to look further."""
    assert "bench exact" in await shown(connect_pair, "hello world", "hello you")
