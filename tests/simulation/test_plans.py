"""Plans by seed are repeatable, survive their JSON form, and shrink to what matters."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks.sim.corpus import Entry, read_corpus, write_entry
from benchmarks.sim.figures import Figures, changes, golden_plans, read_golden, write_golden
from benchmarks.sim.generate import plan_of
from benchmarks.sim.limits import touches
from benchmarks.sim.plan import Fault, Leave, Plan, Reset, decode_plan, encode_plan
from benchmarks.sim.shrink import shrink
from edge_agent.api import SessionMode

SEEDS = range(400)


def test_a_seed_is_one_plan_and_its_json_form_gives_it_back() -> None:
    """Other seeds give other plans."""
    plans = [plan_of(seed) for seed in SEEDS]
    assert [plan_of(seed) for seed in SEEDS] == plans
    assert [decode_plan(encode_plan(plan)) for plan in plans] == plans
    assert len({encode_plan(replace(plan, seed=0)) for plan in plans}) > 0.99 * len(plans)


def test_the_generator_reaches_every_fault_mode_policy_and_fallback() -> None:
    """What it never draws, it never tests."""
    plans = [plan_of(seed) for seed in SEEDS]
    faults = Counter(type(fault) for plan in plans for fault in plan.faults)
    assert set(faults) == set(Fault.__args__)
    chats = [chat for plan in plans for chat in plan.chats]
    assert {chat.mode for chat in chats} == set(SessionMode)
    assert {chat.policy for chat in chats} == {"adaptive", "pipesd", "edgellm", "hsl", "vanilla"}
    assert {edge.fallback for plan in plans for edge in plan.edges} == {"local", "error", "wait"}
    assert any(chat.sampling.temperature for chat in chats)
    forms = {chat.sampling.structure.kind for chat in chats if chat.sampling.structure is not None}
    assert forms == {"choice", "regex", "json_schema"}
    assert any(not plan.faults for plan in plans)


@pytest.mark.parametrize("seed", SEEDS[:100])
def test_plans_are_whole(seed: int) -> None:
    """Indexes name something, and nobody asks for more tokens at least than at most."""
    plan = plan_of(seed)
    assert all(edge.server < len(plan.servers) for edge in plan.edges)
    for chat in plan.chats:
        assert chat.edge < len(plan.edges)
        assert chat.sampling.min_tokens <= chat.sampling.max_tokens
        assert len(chat.prompt) + chat.sampling.max_tokens < 512
    for fault in plan.faults:
        assert getattr(fault, "edge", 0) < len(plan.edges)
        assert getattr(fault, "server", 0) < len(plan.servers)
        assert getattr(fault, "chat", 0) < len(plan.chats)
        assert any(touches(plan, fault, i) for i in range(len(plan.chats))) or not isinstance(fault, Leave)


def test_shrinking_leaves_what_fails() -> None:
    """Faults, chats and edges that have no part in it go, and what remains still names the right ones."""
    plan = next(p for p in map(plan_of, SEEDS) if len(p.edges) > 2 and _resets(p) and len(p.faults) > 3)

    def fails(smaller: Plan) -> bool:
        return bool(_resets(smaller))

    small = shrink(plan, fails)
    assert len(small.faults) == len(small.chats) == len(small.edges) == 1
    assert small.chats[0].edge == 0
    assert _resets(small)


def _resets(plan: Plan) -> list[Reset]:
    """Cuts of an edge that a chat is on."""
    edges = {chat.edge for chat in plan.chats}
    return [fault for fault in plan.faults if isinstance(fault, Reset) and fault.edge in edges]


def test_shrinking_keeps_to_its_bound() -> None:
    """A plan that always fails is tried so many times and no more."""
    num_calls = 0

    def fails(_: Plan) -> bool:
        nonlocal num_calls
        num_calls += 1
        return False

    plan = plan_of(3)
    assert shrink(plan, fails, max_runs=5) == plan
    assert num_calls <= 5


def test_a_corpus_entry_is_read_as_it_was_written(tmp_path) -> None:
    """By the name of its file."""
    entry = Entry("The answer was lost.", plan_of(7), planted="gives-up")
    write_entry(tmp_path, "an-answer", entry)
    assert read_corpus(tmp_path) == {"an-answer": entry}
    (tmp_path / "bad.json").write_text('{"found": "x"}')
    with pytest.raises(msgspec.ValidationError):
        read_corpus(tmp_path)


def test_figures_are_read_as_they_were_written(tmp_path) -> None:
    """And a change is told in words."""
    figures = Figures(1.5, 64, 20, 60, 50, 44, 900, 1200)
    write_golden(tmp_path / "golden.json", {'a "name"': figures})
    assert read_golden(tmp_path / "golden.json") == {'a "name"': figures}
    assert changes(figures, figures) == []
    assert changes(figures, replace(figures, passes=21)) == ["passes 20 -> 21"]
    assert changes(figures, replace(figures, seconds=1.5 + 1e-9)) == []
    assert len(golden_plans()) >= 40
