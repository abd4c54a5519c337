"""The harness of faults: its judge, its table, and the path that fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.answers import ASKS, Answer, Expected, Verdict, judge, reference
from benchmarks.faults.command import counts_of
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.soak import Sample, Soaked, describe, draw, grown
from benchmarks.faults.trials import Row, table
from benchmarks.netlink.proxy import proxy_path
from edge_agent.api import Fallback
from openai_gateway.cli.errors import CliError

WHOLE = "Bread is older than ovens, and nobody wrote its beginnings down."
PLAIN, TOOLS = ASKS[0], ASKS[3]


def chunk(text: str, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], **fields}


def answer(*chunks: dict[str, Any], done: bool = True, num_tokens: int | None = 9, **ends: Any) -> Answer:
    made = Answer(ended_s=1.0, is_done=done, num_tokens=num_tokens, **ends)
    for number, each in enumerate(chunks):
        made.add(each, float(number))
    return made


MARKED = {"pipesd": {"verified": False}}
ENDED: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
CUT = {"error": {"code": "cloud_unreachable"}}
JUDGED: dict[str, tuple[Answer, Fallback, Verdict]] = {
    "whole": (answer(chunk(WHOLE[:20]), chunk(WHOLE[20:])), Fallback.WAIT, Verdict.WHOLE),
    "another text": (answer(chunk("Butter is older still, they say.")), Fallback.WAIT, Verdict.DIFFERING),
    "a piece passed over": (answer(chunk(WHOLE[:10]), chunk(WHOLE[25:])), Fallback.WAIT, Verdict.LOST),
    "a piece twice": (
        answer(chunk(WHOLE[:30]), chunk(WHOLE[10:30]), chunk(WHOLE[30:])),
        Fallback.WAIT,
        Verdict.DOUBLED,
    ),
    "a token that has no text": (answer(chunk(WHOLE), num_tokens=10), Fallback.WAIT, Verdict.DOUBLED),
    "an early end": (answer(chunk(WHOLE[:10])), Fallback.WAIT, Verdict.LOST),
    "never over": (Answer(texts={0: WHOLE[:5]}), Fallback.WAIT, Verdict.LOST),
    "a typed error": (answer(chunk(WHOLE[:10]), CUT, done=False), Fallback.ERROR, Verdict.ALLOWED),
    "an error in spite of waiting": (answer(chunk(WHOLE[:10]), CUT, done=False), Fallback.WAIT, Verdict.LOST),
    "an error though the draft could": (answer(CUT, done=False), Fallback.LOCAL, Verdict.LOST),
    "no code of ours": (
        answer({"error": {"code": "internal_error"}}, done=False),
        Fallback.ERROR,
        Verdict.UNTYPED,
    ),
    "a broken line": (
        answer(chunk(WHOLE[:9]), done=False, broken="ReadError"),
        Fallback.ERROR,
        Verdict.UNTYPED,
    ),
    "the draft goes on": (
        answer(chunk(WHOLE[:9]), chunk("and so on", **MARKED), ENDED),
        Fallback.LOCAL,
        Verdict.ALLOWED,
    ),
    "the draft where nobody asked it": (
        answer(chunk(WHOLE[:9]), chunk("and so on", **MARKED), ENDED),
        Fallback.WAIT,
        Verdict.LOST,
    ),
}


@pytest.mark.parametrize(("given", "fallback", "verdict"), JUDGED.values(), ids=JUDGED.keys())
def test_what_an_answer_is_worth(given: Answer, fallback: Fallback, verdict: Verdict) -> None:
    """Text, count of tokens and end decide, under the setting that was asked."""
    assert judge(PLAIN, given, Expected((WHOLE,), 9), fallback) is verdict


def test_a_line_that_the_fault_takes() -> None:
    """What came before is the target's own, or it is a finding in spite of the fault."""
    lost = answer(chunk(WHOLE[:9]), done=False, broken="ReadError")
    assert judge(PLAIN, lost, Expected((WHOLE,), 9), Fallback.WAIT, line_lost=True) is Verdict.ALLOWED
    wrong = answer(chunk("Butter is older still."), done=False, broken="ReadError")
    assert judge(PLAIN, wrong, Expected((WHOLE,), 9), Fallback.WAIT, line_lost=True) is Verdict.DIFFERING


def test_calls_are_compared_as_they_are_written() -> None:
    """A streamed call in pieces is the whole answer's; another name is not."""
    function = {"name": "visit", "arguments": '{"cities": []}'}
    whole = {"choices": [{"index": 0, "message": {"content": None, "tool_calls": [{"function": function}]}}]}
    expected = reference({**whole, "usage": {"completion_tokens": 9}})
    assert expected.texts == ('visit({"cities": []}',)

    def call(**function: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": function}]}}]}

    same = answer(call(name="visit", arguments='{"ci'), call(arguments='ties": []}'))
    assert judge(TOOLS, same, expected, Fallback.WAIT) is Verdict.WHOLE
    other = answer(call(name="leave", arguments='{"ci'))
    assert judge(TOOLS, other, expected, Fallback.WAIT) is Verdict.DIFFERING


def test_counts() -> None:
    """By default each fault strikes; a name alone is once; what is no fault is said."""
    assert counts_of(None).keys() == FAULTS.keys()
    assert counts_of(["cut=20", "hole"]) == {"cut": 20, "hole": 1}
    for wrong in ("fire=2", "cut=often", "cut=-1"):
        with pytest.raises(CliError, match="server-kill"):
            counts_of([wrong])


def test_the_table() -> None:
    """One line a fault, as many cells as the head."""
    row = Row("cut", 2, Counter({Verdict.WHOLE: 9, Verdict.LOST: 1}), added_s=[0.5, 0.25], gaps_s=[0.125])
    head, _, line = table([row])
    assert head.count("|") == line.count("|")
    assert line.startswith("| cut | 2 | 10 | 9 | 0 | 0 | 1 | 0 | 0 | 0 | 0.25 | 0.50 | 0.12 |")
    assert row.num_findings == 1
    assert row.as_json()["lost"] == 1


class Echo:
    """A server behind a path, and a connection to it."""

    async def __aenter__(self) -> Echo:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._path = proxy_path()
        self.path = await self._path.__aenter__()
        self.host, _, port = (await self.path.reach(self.server.sockets[0].getsockname()[1])).partition(":")
        self.port = int(port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._path.__aexit__(None, None, None)
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def said(self, line: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
        line[1].write(data)
        return await asyncio.wait_for(line[0].readexactly(len(data)), 30)


async def test_a_path_that_is_cut() -> None:
    """Connections end in a reset, also in mid-frame; others are taken, unless the path refuses them."""
    async with Echo() as echo:
        line = await echo.dial()
        assert await echo.said(line, b"hello") == b"hello"
        echo.path.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line[0].read(), 30)
        line[1].close()
        line = await echo.dial()
        echo.path.cut_after(1, 3)
        line[1].write(b"hello")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(line[0].readexactly(5), 30)
        line[1].close()
        echo.path.refuse()
        with pytest.raises(ConnectionError):
            await echo.dial()
        await echo.path.restore()
        line = await echo.dial()
        assert await echo.said(line, b"again") == b"again"
        assert echo.path.num_connections == 3
        line[1].close()


async def test_a_path_that_is_held() -> None:
    """Nothing arrives while it is held, and all of it afterwards."""
    async with Echo() as echo:
        line = await echo.dial()
        assert await echo.said(line, b"one") == b"one"
        echo.path.hold(1)
        line[1].write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line[0].read(1), 0.2)
        echo.path.release()
        assert await asyncio.wait_for(line[0].readexactly(3), 30) == b"two"
        line[1].close()


async def test_a_server_that_is_gone() -> None:
    """A client of the path sees a reset, not a silent line."""
    async with Echo() as echo:
        echo.server.close()
        await echo.server.wait_closed()
        line = await echo.dial()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line[0].read(), 30)
        line[1].close()


def samples(*megabytes: float) -> list[Sample]:
    return [Sample(2.0 * number, {"edge MB": value}) for number, value in enumerate(megabytes)]


def test_memory_that_grows_in_the_second_half() -> None:
    """The first half fills caches; a leak goes on."""
    assert grown(samples(*[100.0] * 50, *[200.0] * 50), "edge MB") == 0.0
    assert grown(samples(*range(1, 101)), "edge MB") == pytest.approx(0.72, abs=0.02)
    assert grown(samples(1.0, 2.0), "edge MB") is None


def test_the_lines_of_a_soak(tmp_path: Path) -> None:
    """Answers, faults, each curve, what is left; and a picture of them."""
    soaked = Soaked(Counter({Verdict.WHOLE: 9}), Counter(cut=2, hole=1), samples(*[50.0] * 20))
    lines = describe(soaked)
    assert lines[0].startswith("answers: 9 whole, 0 allowed")
    assert lines[1] == "faults: 3 (2 cut, 1 hole)"
    curve = "edge MB: 50 at the start, 50 in the middle, 50 at the end, 50 at most"
    assert lines[2] == f"{curve}, +0.0% in the second half"
    assert lines[3:] == ["left in the end: nothing", "growing: nothing"]
    draw(soaked.samples, picture := tmp_path / "soak.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CliError, match="another file"):
        draw(soaked.samples, tmp_path / "no" / "such.png")
