"""Ten thousand seeds, and bugs planted in the product: the judge finds each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sim.chaos import examine, examine_seeds, hunt
from benchmarks.sim.corpus import FOLDER, Entry, read_corpus
from benchmarks.sim.figures import FILE, read_golden
from benchmarks.sim.planted import PLANTED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

ROOT = Path(__file__).parents[2]
CORPUS = {name: entry for name, entry in read_corpus(ROOT / FOLDER).items() if entry.planted}


def test_ten_thousand_seeds_hold() -> None:
    """The first 300 of them are in `make test`."""
    found = {e.seed: list(map(str, e.findings)) for e in examine_seeds(range(300, 10_000), 1) if e.findings}
    assert found == {}


@pytest.mark.parametrize("name", [bug.name for bug in PLANTED])
def test_a_planted_bug_is_found(name: str) -> None:
    """Within 2,000 seeds, or by the figures of the plans without faults."""
    assert hunt(name, read_golden(ROOT / FILE), 2000).is_found


@pytest.mark.parametrize("entry", CORPUS.values(), ids=CORPUS)
def test_an_entry_of_the_corpus_fails_again_with_its_bug(entry: Entry) -> None:
    """So it still tests what it once found."""
    bug = next(bug for bug in PLANTED if bug.name == entry.planted)
    with bug.planted():
        assert examine(entry.plan).findings
