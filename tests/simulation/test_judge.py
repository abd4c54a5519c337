"""The judge finds what is wrong with a run, calls it by the right name, and says nothing where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from benchmarks.sim.judge import Kind, judge
from benchmarks.sim.models import reference
from benchmarks.sim.outcome import ChatOutcome, Emitted, End, Leftovers, Outcome
from benchmarks.sim.plan import (
    Blackhole,
    Chat,
    DraftCost,
    DraftFails,
    EdgeLie,
    EdgeLies,
    EdgePlan,
    Leave,
    Plan,
    Reset,
    Restart,
    ServerPlan,
    Side,
)
from benchmarks.sim.planted import PLANTED, PlantedBug
from edge_agent.api import Fallback, GenerationStats, Sampling, SessionMode

SAMPLING = Sampling(max_tokens=12, ignore_eos=True)
CHAT = Chat(prompt=(300, 301, 302), sampling=SAMPLING, mode=SessionMode.OFFLOAD)
CUT = Reset(edge=0, connection=0, side=Side.DOWN, after=5)
FAULTLESS = Plan(seed=1, edges=(EdgePlan(fallback=Fallback.WAIT),), chats=(CHAT,))
PLAN = replace(FAULTLESS, faults=(CUT,))
DARK = replace(FAULTLESS, faults=(Blackhole(edge=0, at_s=0.5, for_s=45.0),))
TEXT = tuple(reference("target", CHAT.prompt, SAMPLING))
WHOLE = End(finish_reason="length")
NOTHING = Leftovers()
OTHER = tuple(reference("other", CHAT.prompt, SAMPLING))


def answer(
    tokens: Sequence[int] = TEXT,
    *,
    num_unverified: int = 0,
    end: End = WHOLE,
    took_s: float = 1.0,
    passes: int = 4,
    route: str = "collaborative",
) -> ChatOutcome:
    """A chat whose last tokens are unverified; its figures add up."""
    num_verified = len(tokens) - num_unverified
    emitted = [
        Emitted(i, token, i < num_verified, "drafted" if i < num_verified else "unverified", 0.5)
        for i, token in enumerate(tokens)
    ]
    stats = GenerationStats(
        started_s=0.0,
        first_token_s=0.1,
        last_token_s=took_s,
        completion_tokens=len(tokens),
        target_passes=passes,
        draft_tokens_sent=9,
        draft_tokens_verified=9,
        draft_tokens_accepted=min(9, num_verified),
        unverified_tokens=num_unverified,
    )
    return ChatOutcome(
        prompt=CHAT.prompt,
        tokens=emitted,
        end=end,
        route=route,
        ended_s=took_s,
        stats=stats,
        target_passes=passes,
    )


def outcome(chat: ChatOutcome, plan: Plan = PLAN, leftovers: Leftovers = NOTHING) -> Outcome:
    return Outcome(plan, [chat], leftovers)


def kinds(of: Outcome, clean: Outcome | None = None) -> list[Kind]:
    return [finding.kind for finding in judge(of, clean, reference)]


def with_fallback(fallback: Fallback, plan: Plan = PLAN) -> Plan:
    return replace(plan, edges=(replace(plan.edges[0], fallback=fallback),))


def test_a_right_answer_has_no_findings() -> None:
    """With and without the yardstick, as a whole and where the client left in the middle."""
    assert kinds(outcome(answer())) == []
    assert kinds(outcome(answer()), outcome(answer(), FAULTLESS)) == []
    left = replace(PLAN, faults=(Leave(chat=0, at_s=1.0),))
    assert kinds(outcome(answer(TEXT[:5], end=End(left=True)), left)) == []


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [
        ((*TEXT[:4], 999, *TEXT[5:]), Kind.DIFFERING),
        ((*TEXT[:6], *OTHER[6:]), Kind.DIFFERING),
        ((*TEXT[:6], *TEXT[4:10]), Kind.DOUBLED),
        ((*TEXT[:6], TEXT[5], *TEXT[6:11]), Kind.DOUBLED),
        ((*TEXT, 999), Kind.DOUBLED),
        ((*TEXT[:4], *TEXT[6:]), Kind.LOST),
        (TEXT[:8], Kind.LOST),
    ],
    ids=["another token", "another target", "two again", "one again", "too many", "two skipped", "cut short"],
)
def test_a_wrong_text_is_called_by_its_name(tokens: Sequence[int], kind: Kind) -> None:
    """Both targets could have answered; a text of either alone is right."""
    plan = replace(PLAN, faults=(CUT, Restart(at_s=1.0, down_s=1.0, target="other")))
    assert kinds(outcome(answer(OTHER), plan)) == []
    assert kinds(outcome(answer(tokens), plan)) == [kind]


def test_positions_and_marks_count() -> None:
    """A token may be right and yet come at another position, or carry the wrong mark."""
    moved = answer()
    moved.tokens[5] = changed(moved.tokens[5], position=4)
    assert kinds(outcome(moved)) == [Kind.DOUBLED]
    marked = answer()
    marked.tokens[5] = changed(marked.tokens[5], verified=False)
    assert Kind.DIFFERING in kinds(outcome(marked))
    claims = answer(num_unverified=3, route="local")
    claims.marked_verified = True
    assert kinds(outcome(claims, with_fallback(Fallback.LOCAL, DARK))) == [Kind.DIFFERING]


def test_unverified_tokens_need_a_fallback_and_a_reason() -> None:
    """Only with the fallback `local`, and only where the verifier was out of reach."""
    rest = answer(num_unverified=5, route="local")
    assert kinds(outcome(rest, with_fallback(Fallback.LOCAL, DARK))) == []
    assert kinds(outcome(rest, DARK)) == [Kind.DIFFERING]
    assert kinds(outcome(rest, with_fallback(Fallback.LOCAL))) == [Kind.LOST]
    assert kinds(outcome(rest, with_fallback(Fallback.LOCAL, FAULTLESS))) == [Kind.LOST]


def test_errors_are_those_that_the_settings_allow() -> None:
    """`wait` never gives up, `error` does where a fault explains it; an exception of nobody's is a bug."""
    lost = answer(TEXT[:5], end=End(error="CloudUnreachable", message="gone"))
    assert kinds(outcome(lost, DARK)) == [Kind.LOST]
    assert kinds(outcome(lost, with_fallback(Fallback.ERROR, DARK))) == []
    assert kinds(outcome(lost, with_fallback(Fallback.ERROR))) == [Kind.LOST]
    assert kinds(outcome(lost, with_fallback(Fallback.ERROR, FAULTLESS))) == [Kind.LOST]
    changed_target = answer(TEXT[:5], end=End(error="TargetChanged", message="other"))
    assert kinds(outcome(changed_target)) == [Kind.LOST]
    restarted = replace(PLAN, faults=(Restart(at_s=1.0, down_s=1.0, target="other"),))
    assert kinds(outcome(changed_target, restarted)) == []
    assert kinds(outcome(answer(end=End(bug="KeyError: 3")))) == [Kind.UNTYPED]
    assert kinds(outcome(answer(TEXT[:5], end=End()))) == [Kind.HUNG]
    assert kinds(outcome(answer(TEXT[:5], end=End(left=True)))) == [Kind.LOST]


def test_what_is_left_over_is_a_leak() -> None:
    """Whatever it is, with its names."""
    left = Leftovers(tasks=2, names=("Turn.run",))
    assert kinds(outcome(answer(), leftovers=left)) == [Kind.LEAKED]
    assert "2 tasks left (Turn.run)" in str(judge(outcome(answer(), leftovers=left), None, reference)[0])


def test_figures_that_do_not_add_up_differ() -> None:
    """Each of them against what came, or against another."""
    for name, value in {
        "completion_tokens": 11,
        "unverified_tokens": 1,
        "draft_tokens_accepted": 10,
        "draft_tokens_verified": 10,
        "target_passes": 5,
        "last_token_s": 3.0,
    }.items():
        chat = answer()
        setattr(chat.stats, name, value)
        assert kinds(outcome(chat)) == [Kind.DIFFERING], name


def test_time_and_passes_are_measured_against_the_plan_without_faults() -> None:
    """A cut connection may cost some seconds and passes; minutes and a pass a token are a bug."""
    clean = outcome(answer(), FAULTLESS)
    assert kinds(outcome(answer(took_s=4.0, passes=12)), clean) == []
    assert kinds(outcome(answer(took_s=120.0)), clean) == [Kind.SLOW]
    assert kinds(outcome(answer(passes=40)), clean) == [Kind.SLOW]
    assert kinds(outcome(answer(took_s=100.0), DARK), clean) == []


def test_slow_drafts_may_be_waited_for_after_a_fault() -> None:
    """Without faults the server had outrun them; had it not, that run would be the yardstick."""
    slow = (EdgePlan(fallback=Fallback.WAIT, draft=DraftCost(call_s=1.0)),)
    clean, plan = replace(FAULTLESS, edges=slow), replace(PLAN, edges=slow)
    assert kinds(outcome(answer(took_s=50.0), plan), outcome(answer(passes=12), clean)) == []
    assert kinds(outcome(answer(took_s=50.0), plan), outcome(answer(passes=2), clean)) == [Kind.SLOW]
    assert kinds(outcome(answer(took_s=200.0), plan), outcome(answer(passes=12), clean)) == [Kind.SLOW]


def test_a_liar_that_keeps_the_target_busy_may_cost_a_pass_a_token() -> None:
    """Its turns stream, and beside them no drafts are verified that cost; a silent one costs nothing."""
    clean = outcome(answer(passes=2), FAULTLESS)
    for lie, expected in ((EdgeLie.OPEN_STORM, []), (EdgeLie.SILENT, [Kind.SLOW])):
        plan = replace(FAULTLESS, faults=(EdgeLies(lie=lie, at_s=0.1),))
        assert kinds(outcome(answer(passes=18), plan), clean) == expected


def test_a_neighbour_that_streams_for_a_fault_may_cost_a_pass_a_token() -> None:
    """Beside it no drafts are verified that cost; on another server it costs nothing."""
    for server, expected in ((0, []), (1, [Kind.SLOW])):
        plan = replace(
            FAULTLESS,
            edges=(*FAULTLESS.edges, EdgePlan(server=server)),
            chats=(CHAT, replace(CHAT, edge=1)),
            servers=(ServerPlan(), ServerPlan()),
            faults=(DraftFails(edge=1, call=1),),
        )
        clean = Outcome(replace(plan, faults=()), [answer(passes=2)] * 2, NOTHING)
        found = judge(Outcome(plan, [answer(passes=18), answer(passes=2)], NOTHING), clean, reference)
        assert [finding.kind for finding in found] == expected


@pytest.mark.parametrize("bug", PLANTED, ids=[bug.name for bug in PLANTED])
def test_what_a_planted_bug_replaces_is_there(bug: PlantedBug) -> None:
    """Names of the product change; whether each bug is found takes long and is tested elsewhere."""
    with bug.planted():
        pass
