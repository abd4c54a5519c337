"""The mode `auto`: what it predicts, and what it makes of measurements."""

from dataclasses import replace

import pytest

from edge_agent.control import Arm, EnvironmentSnapshot, ModeChooser
from edge_agent.control.modes import ArmCost, predicted_overlap, predicted_wait
from pipesd_vllm.wire import Mode

COSTS = EnvironmentSnapshot(rtt_s=0.03, gamma_s=0.004, step_s=0.03)


class Traffic:
    """Feeds a chooser with what each arm costs; seconds a token and passes a token by arm."""

    def __init__(
        self, chooser: ModeChooser, seconds: dict[Arm, float], *, acceptance: float, step_s: float
    ) -> None:
        self.chooser = chooser
        self.seconds = seconds
        self.acceptance = acceptance
        self.step_s = step_s
        self.spent = dict.fromkeys(Arm, 0)

    def tokens(self, count: int) -> Arm:
        """The arm in force after `count` tokens."""
        for number in range(count):
            arm = self.chooser.arm
            self.spent[arm] += 1
            is_plain = arm is not Arm.WAIT and number % 8 < 4
            elapsed_s = self.step_s if is_plain else self.seconds[arm]
            self.chooser.observe(arm, 1, elapsed_s, drafted=not is_plain, acceptance=self.acceptance)
        return self.chooser.arm


def traffic(*, wait_s: float, overlap_s: float = 0.03, acceptance: float = 0.9, **changes: float) -> Traffic:
    costs = replace(COSTS, **changes)
    seconds = {Arm.STREAM: 0.03, Arm.OVERLAP: overlap_s, Arm.WAIT: wait_s}
    return Traffic(ModeChooser(lambda: costs), seconds, acceptance=acceptance, step_s=0.03)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.9])
def test_overlap_is_never_predicted_slower_than_streaming(acceptance: float) -> None:
    """And a draft as slow as a step brings nothing."""
    assert predicted_overlap(30, 80, 5, acceptance).ms <= 30
    assert predicted_overlap(30, 80, 30, acceptance) == ArmCost(30, 1.0)


def test_a_prediction_by_hand() -> None:
    """One draft, always wrong: a pass, a round trip and a draft for one token."""
    assert predicted_wait(30, 20, 5, 0.0, 1) == (ArmCost(30 + 20 + 5, 1.0), 1)
    cost, window = predicted_wait(30, 0, 0, 0.5, 1)
    assert (cost, window) == (ArmCost(20, 1 / 1.5), 1)


def test_waiting_is_taken_where_it_is_faster() -> None:
    """A fast draft and a dear step; the server is told how long to wait."""
    fast = traffic(wait_s=0.012)
    assert fast.tokens(400) is Arm.WAIT
    mode, patience_ms, drafts = fast.chooser.stance
    assert mode is Mode.BALANCED
    assert drafts
    assert 60 < patience_ms < 300


def test_waiting_that_was_foretold_too_well_is_soon_left() -> None:
    """A prediction is corrected by what is measured; few tokens are spent on it."""
    slow = traffic(wait_s=0.06, overlap_s=0.02)
    assert slow.tokens(2000) is Arm.OVERLAP
    assert slow.spent[Arm.WAIT] < 100


def test_nobody_waits_on_a_slow_edge() -> None:
    """What a prediction rules out is not tried, and drafting that saves nothing pauses."""
    edge = traffic(wait_s=1.0, gamma_s=0.15)
    assert edge.tokens(2000) is Arm.STREAM
    assert edge.spent[Arm.WAIT] == 0
    assert edge.spent[Arm.STREAM] > 4 * edge.spent[Arm.OVERLAP]
    assert edge.chooser.stance == (Mode.LATENCY, 0, False)


def test_drafting_is_taken_up_again_when_it_pays() -> None:
    """The edge was busy; later its drafts are fast."""
    found = [replace(COSTS, gamma_s=0.15)]
    chooser = ModeChooser(lambda: found[0])
    edge = Traffic(chooser, {Arm.STREAM: 0.03, Arm.OVERLAP: 0.03, Arm.WAIT: 0.1}, acceptance=0.9, step_s=0.03)
    assert edge.tokens(60) is Arm.STREAM
    found[0] = COSTS
    edge.seconds[Arm.OVERLAP] = edge.seconds[Arm.WAIT] = 0.012
    assert edge.tokens(1000) is not Arm.STREAM


def test_latency_never_waits() -> None:
    """However good waiting would be."""
    chooser = ModeChooser(lambda: COSTS, may_wait=False)
    edge = Traffic(chooser, dict.fromkeys(Arm, 0.01), acceptance=0.95, step_s=0.03)
    edge.tokens(1000)
    assert edge.spent[Arm.WAIT] == 0


def test_a_window_that_the_longest_patience_does_not_cover_is_not_waited_for() -> None:
    """Its drafts would come after the server has gone on."""
    chooser = ModeChooser(lambda: replace(COSTS, rtt_s=0.4), max_patience_ms=500)
    edge = Traffic(chooser, dict.fromkeys(Arm, 0.01), acceptance=0.98, step_s=2.0)
    edge.tokens(200)
    assert edge.spent[Arm.WAIT] == 0


def test_nothing_is_decided_before_costs_are_measured() -> None:
    """Overlap costs no time meanwhile."""
    chooser = ModeChooser(EnvironmentSnapshot)
    for _ in range(100):
        chooser.observe(Arm.OVERLAP, 1, 0.03, drafted=0, acceptance=0.5)
    assert chooser.arm is Arm.OVERLAP
