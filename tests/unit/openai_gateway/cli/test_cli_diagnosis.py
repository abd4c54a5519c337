"""The verdict of `pipesd doctor`, and what it measures, without models."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_agent.control import Arm, EnvironmentSnapshot
from edge_agent.errors import CloudMisbehaved, CloudRefused
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.cli.diagnosis import NUM_TOKENS, UPLOAD_SIZES, Figures, Probe, diagnose
from openai_gateway.cli.doctor import _other, report
from openai_gateway.cli.main import app

GOOD = Figures(draft_ms=2.0, plain_ms=50.0, step_ms=55.0, rtt_ms=10.0, acceptance=0.8)
LINK = EnvironmentSnapshot(step_s=0.055, rtt_s=0.010)
MakeFake = Callable[..., FakeGenerator]


def test_a_fast_draft_helps() -> None:
    """A token then takes less time and fewer passes than the server's own."""
    verdict = diagnose(GOOD, 16)
    assert verdict.helps
    assert verdict.arm is Arm.OVERLAP
    assert verdict.expected[Arm.OVERLAP].ms < 0.6 * GOOD.plain_ms
    assert "target passes instead of the server's own 50.0 ms" in verdict.reason


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"draft_ms": 200.0}, "drafting a token takes 200.0 ms"),
        ({"rtt_ms": 900.0}, "the round trip of 900.0 ms"),
        ({"acceptance": 0.02}, "only 2% of the drafts"),
    ],
)
def test_what_stands_in_the_way_is_named(change: dict[str, float], cause: str) -> None:
    """The figure that spoils it is the one in the sentence, and nothing is expected of drafts."""
    verdict = diagnose(replace(GOOD, **change), 16)
    assert not verdict.helps
    assert verdict.arm is Arm.STREAM
    assert verdict.reason.startswith("a draft model saves nothing here")
    assert cause in verdict.reason


def test_without_a_draft_model() -> None:
    """Nothing is forecast but streaming: what is looked up depends on the text."""
    verdict = diagnose(replace(GOOD, draft_ms=None), 16)
    assert (verdict.arm, [*verdict.expected]) == (Arm.STREAM, [Arm.STREAM])
    assert "looked up" in verdict.reason


MS = st.floats(0.01, 1e4)


@given(MS, MS, MS, MS, st.floats(0, 1), st.integers(1, 16))
def test_every_verdict_is_consistent(
    draft: float, plain: float, step: float, rtt: float, acceptance: float, max_ahead: int
) -> None:
    """Whatever is measured, what is chosen costs no more than streaming."""
    figures = Figures(plain, step, rtt, draft, acceptance)
    verdict = diagnose(figures, max_ahead)
    chosen = verdict.expected[verdict.arm]
    assert chosen.ms <= plain * 1.01
    assert 0 < chosen.passes <= 1
    assert verdict.reason


def test_a_report_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """--json has the pair, what was measured, what is expected and the verdict."""
    pair = {"draft": "d", "target": "t", "fingerprint": "f" * 64}
    report(pair, GOOD, diagnose(GOOD, 16), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["arm"], found["measured"]["draft_ms"]) == (True, "overlap", 2.0)
    assert found["expected"]["stream"] == {"ms": 50.0, "passes": 1.0}
    report(pair, GOOD, diagnose(GOOD, 16), as_json=False)
    text = capsys.readouterr().out
    assert "mode auto will draft while the server decodes by itself: a token will take" in text
    assert "not measured" in text  # the transfers


def test_a_report_of_several_targets(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its line: what drafts for it, or why it is not to be had."""
    others = [
        {"ok": True, "url": "http://b", "target": "org/b", "draft": "none"},
        {"ok": False, "url": "http://c", "problem": "no verifier answers at http://c"},
    ]
    pair = {"draft": "d", "target": "t", "fingerprint": "f" * 64, "others": others}
    report(pair, GOOD, diagnose(GOOD, 16), as_json=True)
    assert json.loads(capsys.readouterr().out)["others"] == others
    report(pair, GOOD, diagnose(GOOD, 16), as_json=False)
    text = capsys.readouterr().out
    assert "draft none, target org/b at http://b" in text
    assert "target at http://c: no verifier answers" in text


async def test_another_target_that_is_away_is_no_fault_of_the_doctors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = await _other(EdgeSettings(cloud_url="http://a"), "http://127.0.0.1:9")
    assert (found["ok"], found["url"]) == (False, "http://127.0.0.1:9")
    assert "no verifier answers" in found["problem"]


def scripted(generator_for: MakeFake, status: int = 200) -> FakeGenerator:
    generator = generator_for("hello world " * 4, chunk_tokens=2, delay_s=0.001)

    def cloud(path: str, body: Mapping[str, Any]) -> FakeForwardedAnswer:
        if "prompt" not in body:
            return FakeForwardedAnswer(400, (b"{}",))
        return FakeForwardedAnswer(status, (b"data: {}\n\n",) * NUM_TOKENS)

    generator.cloud = cloud
    return generator


def ticking() -> Callable[[], float]:
    numbers = itertools.count()
    return lambda: float(next(numbers))


async def test_all_figures_are_measured(generator_for: MakeFake) -> None:
    """Both routes are asked for the same greedy tokens, the server's stream is timed token by token."""
    generator = scripted(generator_for)
    figures = await Probe(generator, lambda: LINK, ticking()).measure()
    assert (figures.step_ms, figures.rtt_ms) == (55.0, 10.0)
    assert figures.plain_ms == 1000.0  # the clock ticks once a token
    assert figures.acceptance == 1.0
    assert figures.draft_ms > 0
    routes = [record.request.route for record in generator.records]
    assert routes == ["local", "collaborative", "collaborative"]
    sizes = {len(body["user"]) for _, body in generator.forwarded if "user" in body}
    assert sizes == {1, *UPLOAD_SIZES}  # by this clock all take as long
    assert figures.uplink_mbit_s is None


class Uplink:
    """A link of `bytes_per_s`; `delays_s` are what the requests take beyond that, the last for all others."""

    def __init__(self, bytes_per_s: float, *delays_s: float) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []
        self._bytes_per_s = bytes_per_s
        self._delays_s = delays_s

    def clock(self) -> float:
        return self.now_s

    def cloud(self, path: str, body: Mapping[str, Any]) -> FakeForwardedAnswer:
        if "prompt" in body:
            self.now_s += 1.0
            return FakeForwardedAnswer(200, (b"data: {}\n\n",) * NUM_TOKENS)
        num_before = len(self.sizes)
        self.sizes.append(len(body["user"]))
        self.now_s += self._delays_s[min(num_before, len(self._delays_s) - 1)]
        self.now_s += self.sizes[-1] / self._bytes_per_s
        return FakeForwardedAnswer(400, (b"{}",))


@pytest.mark.parametrize(
    ("mbit_s", "delays_s", "most"),
    [
        (8.0, (0.030,), UPLOAD_SIZES[0]),
        (8.0, (3.0, 0.030), UPLOAD_SIZES[0]),  # the first opened the connection, with TLS
        (8000.0, (0.0001,), UPLOAD_SIZES[0]),
        (8000.0, (0.5, 0.9, 0.003), UPLOAD_SIZES[1]),  # a busy moment, then quick
        (80000.0, (0.2, 0.1, 0.002), UPLOAD_SIZES[2]),
    ],
    ids=["slow", "a connection to open", "fast", "busy", "very fast"],
)
async def test_the_uplink_is_measured(
    generator_for: MakeFake, mbit_s: float, delays_s: tuple[float, ...], most: int
) -> None:
    """Whatever single requests take, the bandwidth comes out; much is sent only where it goes fast."""
    link = Uplink(mbit_s * 1e6 / 8, *delays_s)
    generator = scripted(generator_for)
    generator.cloud = link.cloud
    figures = await Probe(generator, lambda: LINK, link.clock).measure()
    assert figures.uplink_mbit_s == pytest.approx(mbit_s, rel=0.01)
    assert max(link.sizes) == most
    assert link.sizes.count(UPLOAD_SIZES[0]) <= (1 if mbit_s == 8.0 else 3)


async def test_what_cannot_be_measured_is_an_error(generator_for: MakeFake) -> None:
    """A server that refuses, and one that reports no times, are named."""
    with pytest.raises(CloudRefused, match="HTTP 500"):
        await Probe(scripted(generator_for, 500), lambda: LINK).measure()
    with pytest.raises(CloudMisbehaved, match="no step times"):
        await Probe(scripted(generator_for), EnvironmentSnapshot).measure()


async def test_the_downlink_counts_what_followed_the_first_part(generator_for: MakeFake) -> None:
    """The first part may have waited for the server; one part alone says nothing."""

    def download(num_parts: int) -> Callable[[], AsyncIterator[bytes]]:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(num_parts):
                await asyncio.sleep(0)
                yield b"x" * 125_000

        return parts

    probe = Probe(generator_for(), lambda: LINK, ticking())
    assert await probe.measure_downlink(download(3)) == 1.0
    assert await probe.measure_downlink(download(1)) is None


def test_a_risky_place_to_listen_is_told(runner: CliRunner) -> None:
    """A gateway that would be open to a network is a finding, whatever comes of the measurements."""
    arguments = ["doctor", "--cloud", "http://127.0.0.1:9", "--connect-timeout-s", "2"]
    open_to_all = {"PIPESD_LISTEN_HOST": "0.0.0.0", "PIPESD_ALLOW_KEYLESS_NETWORK": "true"}
    found = json.loads(runner.invoke(app, [*arguments, "--json"], env=open_to_all).stdout)
    assert len(found["risks"]) == 1
    assert "0.0.0.0" in found["risks"][0]
    assert "risk: All who reach 0.0.0.0" in runner.invoke(app, arguments, env=open_to_all).stdout
    assert json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)["risks"] == []


def test_a_failure_is_one_sentence(runner: CliRunner) -> None:
    """A server that is not there: exit code 1, and with --json an object that says what to do."""
    arguments = ["doctor", "--json", "--cloud", "http://127.0.0.1:9", "--connect-timeout-s", "2"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert "pipesd serve" in found["problem"]
