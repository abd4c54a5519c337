"""The tuner's state machine, on simulated traffic."""

import dataclasses
import math
from collections.abc import Sequence

import pytest

from edge_agent.control import PolicyParameters
from edge_agent.control.tuning.search import Evaluation, Proposer, SobolProposer, Suggestion
from edge_agent.control.tuning.tuner import Phase, Tuner, TunerSettings, TunerState, mean_costs

from .surface import BASE, LEAST_MS, OPTIMUM, SPACE, START, Traffic, bowl

POINTS = len(SPACE.dimensions)


class Late:
    """Has an answer when told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Suggestion | None = None
        self.asked: list[list[Evaluation]] = []

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion | None:
        self.asked.append(list(evaluations))
        return self.answer


class Knowing:
    """Searches with Sobol points, but knows where the best is."""

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        point = SobolProposer(POINTS, 0).suggest(evaluations).point
        estimates = tuple(bowl(SPACE.from_unit(e.point)) for e in evaluations)
        return Suggestion(point, SPACE.to_unit(OPTIMUM), estimates)


def make(proposer: Proposer | None = None, state: TunerState | None = None, **settings: int) -> Tuner:
    defaults = {"num_settling_commits": 0} | settings
    return Tuner(SPACE, START, proposer or SobolProposer(POINTS, 0), TunerSettings(**defaults), state)


def flat(_parameters: PolicyParameters) -> float:
    return LEAST_MS


def tried(tuner: Tuner, traffic: Traffic) -> list[PolicyParameters]:
    """Everything a search tries, in order."""
    points = [tuner.parameters]
    while tuner.phase is not Phase.EXPLOITING:
        if traffic.commit(tuner):
            points.append(tuner.parameters)
    return points


def test_settings_and_paper_come_first_then_the_proposer() -> None:
    """A user sees the usual behaviour first, and nothing is tried twice before the confirmations."""
    points = tried(make(), Traffic(flat))
    assert tuple(points[:2]) == START
    assert len(set(points[:13])) == 13


def test_a_search_takes_16_evaluations_of_64_tokens() -> None:
    """On steady, flat traffic no trial is cut or extended."""
    traffic, tuner = Traffic(flat), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    assert len(tuner.state.observations) == 16
    assert {seen.num_tokens for seen in tuner.state.observations} == {64}
    assert traffic.num_tokens == 16 * 64


def test_without_a_model_the_best_samples_are_measured_again() -> None:
    """The last three evaluations go to the three best points; the best average of them stays in use."""
    traffic, tuner = Traffic(bowl, seed=3, noise=0.3), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    seen = tuner.state.observations
    first = mean_costs(seen[:13])
    assert {o.parameters for o in seen[13:]} == set(sorted(first, key=first.__getitem__)[:3])
    assert tuner.parameters == min(mean_costs(seen), key=mean_costs(seen).__getitem__)


def test_with_a_model_the_last_evaluations_go_where_it_expects_the_best() -> None:
    """That point need not have been measured before, and the model picks the winner."""
    traffic, tuner = Traffic(bowl), make(Knowing())
    traffic.run_until(tuner, Phase.EXPLOITING)
    assert [o.parameters for o in tuner.state.observations[13:]] == [OPTIMUM] * 3
    assert tuner.parameters == OPTIMUM


def test_a_stalling_point_is_cut_short() -> None:
    """Parameters ten times as slow are given up within 16 tokens, and recorded as that bad."""

    def cliff(parameters: PolicyParameters) -> float:
        return LEAST_MS if parameters in START else 10 * LEAST_MS

    traffic, tuner = Traffic(cliff), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    bad = [o for o in tuner.state.observations if o.parameters not in START]
    assert bad
    assert all(o.num_tokens <= 16 and o.cost_ms >= 5 * LEAST_MS for o in bad)
    assert tuner.parameters in START


def test_while_the_proposer_thinks_the_best_known_parameters_are_in_use() -> None:
    """Traffic goes on, however long it takes, and counts as another measurement of them."""
    late, traffic = Late(), Traffic(bowl)
    tuner = make(late)
    traffic.run_until(tuner, Phase.WAITING)
    best = min(START, key=bowl)
    assert tuner.parameters == best
    traffic.run(tuner, 1000)
    assert (tuner.phase, tuner.parameters) == (Phase.WAITING, best)
    late.answer = Suggestion(SPACE.to_unit(OPTIMUM))
    assert traffic.commit(tuner)
    assert (tuner.phase, tuner.parameters) == (Phase.TRYING, OPTIMUM)
    assert [o.num_tokens for o in tuner.state.observations if o.parameters == best] == [64, 1004]


def test_the_question_stays_the_same_until_it_is_answered() -> None:
    """Estimates in an answer belong to the evaluations of the question."""
    late, traffic = Late(), Traffic(bowl)
    tuner = make(late)
    traffic.run_until(tuner, Phase.WAITING)
    traffic.run(tuner, 500)
    assert late.asked
    assert all(asked == late.asked[0] for asked in late.asked)


@pytest.mark.parametrize("factor", [1.3, 0.7])
def test_sustained_drift_starts_a_new_search_from_what_was_good(factor: float) -> None:
    """Costs that change by 30 % for good: old measurements go, the parameters in use are tried first."""
    traffic, tuner = Traffic(bowl), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    found = tuner.parameters
    traffic.run(tuner, 4 * 64)
    traffic.surface = lambda parameters: factor * bowl(parameters)
    traffic.run_until(tuner, Phase.TRYING, max_tokens=4 * 64)
    assert tuner.parameters == found
    assert tuner.state == TunerState(last_best=found)
    traffic.run_until(tuner, Phase.EXPLOITING)
    assert len(tuner.state.observations) == 16


def test_a_new_search_that_is_interrupted_goes_on_from_what_was_good() -> None:
    """Stopped right after a drift or later, the next run has the last result, until there is a new one."""
    traffic, tuner = Traffic(bowl), make(state=TunerState((), OPTIMUM, LEAST_MS))
    traffic.surface = lambda parameters: 2 * bowl(parameters)
    traffic.run_until(tuner, Phase.TRYING)
    again = make(state=tuner.state)
    assert (again.phase, again.parameters) == (Phase.TRYING, OPTIMUM)
    while len(again.state.observations) < 2:
        traffic.commit(again)
    once_more = make(state=again.state)
    assert once_more.parameters not in (OPTIMUM, START[0])
    traffic.run_until(once_more, Phase.EXPLOITING)
    assert once_more.state.last_best is None
    assert {OPTIMUM, *START} <= {seen.parameters for seen in once_more.state.observations}


def test_small_or_short_changes_do_not() -> None:
    """15 % for good and a doubling for one window are borne, as is the noise of ordinary traffic."""
    traffic, tuner = Traffic(bowl, noise=0.4), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    traffic.run(tuner, 20_000)
    traffic.surface = lambda parameters: 2 * bowl(parameters)
    traffic.run(tuner, 80)
    traffic.surface = lambda parameters: 1.1 * bowl(parameters)
    traffic.run(tuner, 20_000)
    assert tuner.phase is Phase.EXPLOITING


def test_interleaved_sessions_count_by_what_they_worked_with() -> None:
    """A session that has not taken over the new parameters yet does not blur the trial of them."""
    tuner = make()
    old = tuner.parameters
    while not tuner.observe(4, 0.08, 1, under=old):
        pass
    new = tuner.parameters
    for _ in range(15):
        tuner.observe(4, 0.16, 1, under=new)
        tuner.observe(4, 0.08, 1, under=old)
    tuner.observe(4, 0.16, 1, under=new)
    assert [o.cost_ms for o in tuner.state.observations] == [pytest.approx(20.0), pytest.approx(40.0)]


def test_the_first_commit_after_a_change_is_left_out() -> None:
    """Its drafts were made under the parameters before."""
    tuner = make(num_settling_commits=1)
    while not tuner.observe(4, 0.08, 1):
        pass
    tuner.observe(4, 5.0, 1)
    for _ in range(16):
        tuner.observe(4, 0.08, 1)
    assert tuner.state.observations[1].cost_ms == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("num_tokens", "elapsed_s"), [(0, 0.1), (4, 0.0), (4, -1.0), (4, 11.0), (4, math.inf), (4, math.nan)]
)
def test_what_cannot_be_a_measurement_is_ignored(num_tokens: int, elapsed_s: float) -> None:
    """Nothing accepted, no time, a suspended laptop: none of it says anything about parameters."""
    tuner = make()
    for _ in range(100):
        assert not tuner.observe(num_tokens, elapsed_s, 1)
    assert tuner.state == TunerState()


def test_a_finished_search_is_used_at_once_by_the_next_run() -> None:
    """Parameters start from the best, and the stored cost tells whether they still fit."""
    traffic, tuner = Traffic(bowl), make()
    traffic.run_until(tuner, Phase.EXPLOITING)
    traffic.run(tuner, 4 * 64)
    state = tuner.state
    assert state.baseline_ms == pytest.approx(bowl(tuner.parameters))
    again = make(state=state)
    assert (again.phase, again.parameters) == (Phase.EXPLOITING, tuner.parameters)
    Traffic(lambda parameters: 1.3 * bowl(parameters)).run_until(again, Phase.TRYING, max_tokens=3 * 64)


def test_an_unfinished_search_goes_on_in_the_next_run() -> None:
    """What was measured counts; nothing is measured again from the start."""
    traffic, tuner = Traffic(bowl), make()
    while len(tuner.state.observations) < 7:
        traffic.commit(tuner)
    again = make(state=tuner.state)
    assert again.parameters == min(mean_costs(again.state.observations), key=bowl)
    rest = Traffic(bowl)
    rest.run_until(again, Phase.EXPLOITING)
    assert len(again.state.observations) == 16
    assert rest.num_tokens <= 9 * 64 + 4


def test_waiting_before_an_interruption_costs_no_trials() -> None:
    """What was measured while waiting for suggestions is taken over, beside the 16 trials."""
    late, traffic = Late(), Traffic(bowl)
    tuner = make(late)
    for _ in range(4):
        late.answer = None
        traffic.run_until(tuner, Phase.WAITING)
        traffic.run(tuner, 200)
        late.answer = SobolProposer(POINTS, 0).suggest(late.asked[-1])
        traffic.run_until(tuner, Phase.TRYING)
    assert (len(tuner.state.observations), tuner.state.num_uncounted) == (5 + 4, 4)
    again = make(state=tuner.state)
    Traffic(bowl).run_until(again, Phase.EXPLOITING)
    assert len(again.state.observations) == 16 + 4


def test_a_stored_result_fits_the_settings_of_today() -> None:
    """Out-of-range values are moved into the space; what is not tuned comes from the settings."""
    odd = dataclasses.replace(BASE, sequence_threshold=7.0, max_ahead=999, max_window=1)
    tuner = make(state=TunerState((), odd, 20.0))
    assert tuner.parameters == dataclasses.replace(BASE, sequence_threshold=0.99, max_ahead=32)


def test_revision_tells_when_there_is_something_to_save() -> None:
    """It moves with the state, and only then."""
    traffic, tuner = Traffic(bowl), make()
    before = tuner.state, tuner.revision
    for _ in range(2000):
        traffic.commit(tuner)
        after = tuner.state, tuner.revision
        assert (after[0] != before[0]) == (after[1] != before[1])
        before = after
