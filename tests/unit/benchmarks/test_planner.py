"""The reduced model: its limits, what follows from more of anything, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.planner.command import GPUS, answers, plan, read_factors
from benchmarks.planner.fitting import factors_of
from benchmarks.planner.model import Gpu, Kind, Workload, estimate, fitted, users_within

H100 = GPUS["h100-8b"]
WORK = Workload()


@pytest.mark.parametrize("kind", list(Kind))
def test_one_user_gets_what_a_step_takes(kind: Kind) -> None:
    """Alone on a GPU plain decoding takes a step a token, and no way that decodes on takes longer."""
    step_s = H100.step_s(1, WORK.context)
    found = estimate(H100, WORK, kind, 1)
    assert not found.limit
    if kind is Kind.PLAIN:
        assert found.tpt_s == pytest.approx(step_s, rel=0.02)
    elif kind is not Kind.WAITING:
        assert found.tpt_s <= step_s * 1.02


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(Kind)), st.integers(1, 150), st.integers(2, 4))
def test_more_users_never_make_a_token_faster(kind: Kind, users: int, times: int) -> None:
    """Nor fewer answers under way, in any kind of service."""
    few, many = (estimate(H100, WORK, kind, number) for number in (users, users * times))
    assert many.tpt_s >= few.tpt_s * 0.99
    assert many.under_way >= few.under_way * 0.99


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(Kind)), st.floats(0.008, 0.1))
def test_the_answer_is_the_last_that_holds(kind: Kind, tpt_s: float) -> None:
    """So many users are within the limit, and one more is not, for the reason that is given."""
    most, limit = users_within(H100, WORK, kind, tpt_s)
    if most:
        at = estimate(H100, WORK, kind, most)
        assert not at.limit
        assert at.tpt_s <= tpt_s
    beyond = estimate(H100, WORK, kind, most + 1)
    assert limit == (beyond.limit or "TPT limit")
    assert beyond.limit or beyond.tpt_s > tpt_s


def test_what_gives_out_is_named() -> None:
    """A small KV cache, few seats, a slow front end, prompts without end: each ends it by name."""

    def limit(gpu: Gpu, work: Workload = WORK) -> str:
        return users_within(gpu, work, Kind.PLAIN, 1e6)[1]

    replace = msgspec.structs.replace
    assert limit(replace(H100, kv_tokens=20_000)) == "KV cache"
    assert limit(replace(H100, seats=8)) == "seats"
    assert limit(replace(H100, front_s=0.01)) == "front end"
    endless = Workload(prompt_tokens=20_000, answer_tokens=1, prefix_hits=0.0)
    assert limit(replace(H100, kv_tokens=10**9, seats=10**6), endless) == "prompts"


def test_a_far_edge_does_not_wait() -> None:
    """Where the round trip is longer than the limit, waiting for drafts serves nobody; streaming does."""
    far = Workload(rtt_s=1.0, acceptance=0.5)
    assert users_within(H100, far, Kind.WAITING, 0.02)[0] == 0
    assert users_within(H100, far, Kind.STREAMING, 0.02)[0] > 0


def test_drafts_that_do_not_pay_are_left_out() -> None:
    """At any load our streaming is modelled no slower than plain streaming: the budget's promise."""
    for users in (1, 30, 300, 1000):
        plain, ours = (estimate(H100, WORK, kind, users) for kind in (Kind.PLAIN, Kind.STREAMING))
        assert ours.tpt_s <= plain.tpt_s * 1.001


def test_factors_are_the_simulators_over_the_models() -> None:
    """A row that is twice as slow as modelled gives 2; kinds without rows are left as they are."""
    row = {
        "way": "plain", "mode": "auto", "costs": "h100-8b", "edges": 4, "plain": 0, "junk": 0,
        "rtt_ms": 30.0, "draft_ms": 4.0,
        "tpt_p50_ms": 2e3 * H100.step_s(4, 4 * 149),
    }  # fmt: skip
    found = factors_of([row], dict(GPUS))
    assert found == {
        "plain": pytest.approx(2.0, rel=1e-3),
        "n-gram": 1.0,
        "ours, auto": 1.0,
        "ours, offload": 1.0,
    }
    assert fitted([]) == 1.0


def test_the_factors_that_ship_are_for_every_kind() -> None:
    """And no wild ones: the model is of the right kind."""
    factors = read_factors()
    assert set(factors) == set(map(str, Kind))
    assert all(0.4 < factor < 2.5 for factor in factors.values())


def test_the_command_answers_and_says_what_it_assumes(tmp_path: Path) -> None:
    """GPUs for all users, from a table in a file; curves to 10,000 users, and a picture."""
    table, file, picture = (tmp_path / name for name in ("gpu.json", "plan.json", "plan.png"))
    table.write_bytes(msgspec.json.encode(H100))
    app = typer.Typer()
    app.command()(plan)
    arguments = ["--gpu-table", str(table), "--users", "5000", "--tpt-ms", "30", "--rtt-ms", "30"]
    done = CliRunner().invoke(app, [*arguments, "--json", str(file), "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    for told in ("us a row", "KV cache", "closed queueing network", "RTT 30 ms", "fitted to the simulator"):
        assert told in done.output
    found = json.loads(file.read_text())
    assert [row["kind"] for row in found["answers"]] == list(map(str, Kind))
    assert all(row["gpus"] * row["users_per_gpu"] >= 5000 for row in found["answers"] if row["gpus"])
    assert found["curves"]["plain"][-1]["users"] == 10_000
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("text", ["{}", '{"name": "x"}', "no json"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """With what is wrong with it."""
    app = typer.Typer()
    app.command()(plan)
    (file := tmp_path / "gpu.json").write_text(text)
    assert CliRunner().invoke(app, ["--gpu-table", str(file)]).exit_code != 0
    assert CliRunner().invoke(app, ["--gpu-table", str(tmp_path / "none")]).exit_code != 0


def test_more_gpus_for_more_users() -> None:
    """In proportion: users are spread evenly."""
    few, many = (answers(H100, WORK, users, 0.03, {})[0]["gpus"] for users in (10_000, 100_000))
    assert 8 * few <= many <= 10 * few
