"""Seeded faults in virtual time: the second half, and the figures of plans without faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sim.figures import FILE, changes, figures_of, golden_plans, read_golden
from benchmarks.sim.plan import Plan
from benchmarks.sim.world import run
from tests.simulation.seeds import findings_of

ROOT = Path(__file__).parents[2]
PLANS = golden_plans()
GOLDEN = read_golden(ROOT / FILE)


def test_half_of_the_seeds_hold() -> None:
    """`pipesd bench chaos --log SEED` shows what happened, `--shrink SEED` makes it small."""
    assert findings_of(range(150, 300)) == {}


@pytest.mark.parametrize("name", PLANS)
def test_plans_without_faults_cost_what_they_cost(name: str) -> None:
    """A change is explained in the commit that renews them: `pipesd bench chaos --figures`."""
    plan: Plan = PLANS[name]
    assert changes(GOLDEN[name], figures_of(run(plan))) == []
