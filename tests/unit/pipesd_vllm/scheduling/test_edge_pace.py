"""When drafts are due, and what waiting for them is worth."""

from __future__ import annotations

from pipesd_vllm.scheduling.edge_pace import EdgePace

STEP_S = 0.015


def paced(yields: int, *, cycles: int = 8, delay_s: float = 0.030) -> tuple[EdgePace, float]:
    """A session whose passes with drafts give `yields` tokens each, two without come after each; and now."""
    pace, frontier, now_s = EdgePace(), 10, 0.0
    for _ in range(cycles):
        pace.on_drafts(delay_s, frontier, fit=True)
        for number, num_tokens in enumerate((yields, 1, 1)):
            now_s += STEP_S
            frontier += num_tokens
            pace.on_pass(frontier, num_tokens, 5 if number == 0 else 0, STEP_S, now_s)
    pace.on_run_out(now_s)
    return pace, now_s


def test_nothing_is_expected_of_an_edge_that_never_answered() -> None:
    pace = EdgePace()
    pace.on_pass(11, 1, 0, STEP_S, 1.0)
    pace.on_pass(12, 1, 0, STEP_S, 1.015)
    pace.on_run_out(1.015)
    assert not pace.expects(1.02)


def test_the_faster_the_session_the_longer_drafts_are_waited_for() -> None:
    """At 10 tokens in 3 steps a pass of one token costs 10.5 ms more than its token is worth."""
    fast, now_s = paced(8)
    assert fast.expects(now_s + 0.001)
    assert not fast.is_worth_waiting(now_s + 0.018)
    assert fast.is_worth_waiting(now_s + 0.021)
    slower, now_s = paced(2)
    assert not slower.is_worth_waiting(now_s + 0.021)
    assert slower.is_worth_waiting(now_s + 0.0285)


def test_drafts_that_save_nothing_are_not_waited_for() -> None:
    pace, now_s = paced(1)
    assert not pace.expects(now_s + 0.001)


def test_the_wait_ends_soon_after_drafts_were_due_and_when_they_come() -> None:
    pace, now_s = paced(8)
    assert pace.expects(now_s + 0.0305)
    assert not pace.expects(now_s + 0.035)
    pace.on_drafts(0.030, 999, fit=True)
    assert not pace.expects(now_s + 0.001)


def test_drafts_that_no_longer_fit_say_when_the_next_ones_come() -> None:
    """They were right up to a token of the last pass, of which the edge hears a step later."""
    pace, now_s = paced(8)
    frontier = 10 + 8 * 10
    pace.on_pass(frontier + 1, 1, 0, STEP_S, now_s + STEP_S)
    pace.on_drafts(0.030, frontier, fit=False)
    assert not pace.is_worth_waiting(now_s + 0.030)
    assert pace.is_worth_waiting(now_s + STEP_S + 0.029)


def test_a_late_answer_moves_the_expectation_a_little() -> None:
    """And widens the window in which it may come."""
    pace, now_s = paced(8)
    pace.on_drafts(0.050, 999, fit=True)
    pace.on_run_out(now_s)
    assert pace.expects(now_s + 0.036)
