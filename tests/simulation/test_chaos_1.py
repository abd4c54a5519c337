"""Seeded faults in virtual time: the first half of what every change runs, and the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sim.chaos import examine
from benchmarks.sim.corpus import FOLDER, Entry, read_corpus
from tests.simulation.seeds import findings_of

CORPUS = read_corpus(Path(__file__).parents[2] / FOLDER)


@pytest.mark.parametrize("entry", CORPUS.values(), ids=CORPUS)
def test_what_once_failed_holds(entry: Entry) -> None:
    """Each entry says what it once found."""
    assert examine(entry.plan).findings == []


def test_half_of_the_seeds_hold() -> None:
    """`pipesd bench chaos --log SEED` shows what happened, `--shrink SEED` makes it small."""
    assert findings_of(range(150)) == {}
