"""Runs seeds for the tests."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.sim.chaos import examine_seed, settle_memory


def findings_of(seeds: Iterable[int]) -> dict[int, list[str]]:
    """What was found, by seed."""
    found = {}
    for number, seed in enumerate(seeds):
        if number % 10 == 0:
            settle_memory()
        if findings := examine_seed(seed).findings:
            found[seed] = [str(finding) for finding in findings]
    return found
