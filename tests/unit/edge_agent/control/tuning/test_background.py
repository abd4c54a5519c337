"""Keeping a slow search method out of the way of the tokens."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_agent.control.tuning.background import BackgroundProposer
from edge_agent.control.tuning.search import Evaluation, SobolProposer, Suggestion
from edge_agent.control.tuning.tuner import Phase, Tuner, TunerSettings

from .surface import SPACE, START, Traffic, bowl

SEEN = [Evaluation((0.5,) * 4, 20.0, 64, 0.1)] * 6
FALLBACK = SobolProposer(4, 0)
ANSWER = Suggestion((0.1, 0.2, 0.3, 0.4))


class Blocking:
    """Answers once released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.started = threading.Event()

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        self.started.set()
        assert self.released.wait(30)
        return ANSWER


class Failing:
    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        raise ArithmeticError("not positive definite")


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def waited_for(proposer: BackgroundProposer) -> Suggestion:
    while (suggestion := proposer.suggest(SEEN)) is None:
        pass
    return suggestion


def test_no_answer_until_the_solver_has_one(executor: ThreadPoolExecutor) -> None:
    """`suggest` returns while the solver is at work, and delivers what it found afterwards."""
    solver = Blocking()
    proposer = BackgroundProposer(solver, FALLBACK, executor)
    assert [proposer.suggest(SEEN) for _ in range(100)] == [None] * 100
    solver.released.set()
    assert waited_for(proposer) == ANSWER


def test_a_thinking_solver_does_not_hold_up_the_traffic(executor: ThreadPoolExecutor) -> None:
    """Thousands of commits pass through `observe` while a suggestion is being computed."""
    solver, traffic = Blocking(), Traffic(bowl)
    tuner = Tuner(SPACE, START, BackgroundProposer(solver, FALLBACK, executor), TunerSettings())
    traffic.run_until(tuner, Phase.WAITING)
    assert solver.started.wait(30)
    traffic.run(tuner, 10_000)
    assert tuner.phase is Phase.WAITING
    solver.released.set()
    traffic.run_until(tuner, Phase.TRYING, max_tokens=10_000_000)


def test_the_first_points_do_without_the_solver(executor: ThreadPoolExecutor) -> None:
    """A model of fewer than six points is not worth loading."""
    proposer = BackgroundProposer(Failing(), FALLBACK, executor)
    assert proposer.suggest(SEEN[:5]) == FALLBACK.suggest(SEEN[:5])


def test_a_failing_fit_gives_a_sobol_point_and_one_line(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Numerical failures do not end the search and do not fill the log."""
    proposer = BackgroundProposer(Failing(), FALLBACK, executor)
    with caplog.at_level(logging.WARNING):
        assert [waited_for(proposer) for _ in range(3)] == [FALLBACK.suggest(SEEN)] * 3
    assert len(caplog.records) == 1
    assert "not positive definite" in caplog.text


def test_an_executor_that_was_shut_down_is_no_error() -> None:
    """At the end of the agent sessions may still be running."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    assert BackgroundProposer(Blocking(), FALLBACK, pool).suggest(SEEN) == FALLBACK.suggest(SEEN)
