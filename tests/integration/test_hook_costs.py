"""The measured scheduler is the real one, with as many parked sessions as asked for."""

from __future__ import annotations

from itertools import count

import pytest

from benchmarks.micro.hooks import hook_costs

pytestmark = pytest.mark.filterwarnings("ignore")


def test_hooks_are_timed_with_parked_sessions_beside() -> None:
    """With a clock that ticks once a reading, a step reads it as often with more sessions parked."""
    ticks = map(float, count())
    few, more = hook_costs((2, 40), num_steps=5, clock=lambda: next(ticks))
    assert (few.num_parked, more.num_parked) == (2, 40)
    assert few.hooks_us == more.hooks_us > 0
    assert few.step_us == more.step_us > few.hooks_us / 2
