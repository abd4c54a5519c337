"""Pickers that fail."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.drafting.loop import GuardedPicker
from edge_agent.errors import ModelError
from edge_agent.sampling import DraftToken, GreedyPicker

LOGITS = np.arange(4, dtype=np.float32)


class Failing:
    """Raises what it is told to."""

    def __init__(self, on_pick: Exception | None = None, on_rewind: Exception | None = None) -> None:
        self._on_pick = on_pick
        self._on_rewind = on_rewind

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        if self._on_pick is not None:
            raise self._on_pick
        return DraftToken(3, 0.5)

    def rewind(self, length: int) -> None:
        if self._on_rewind is not None:
            raise self._on_rewind


def test_a_picker_that_works_is_left_alone() -> None:
    """Its picks are passed on as they are."""
    contained = GuardedPicker(GreedyPicker())
    assert contained.pick(LOGITS, [1]) == GreedyPicker().pick(LOGITS, [1])
    contained.rewind(1)
    assert contained.failure is None


@pytest.mark.parametrize("error", [ModelError("NaN in it"), IndexError("NaN in it")])
def test_a_failing_pick_is_noted_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Some token takes the place of the pick, now and later, and the log tells a bug from a bad model."""
    contained = GuardedPicker(Failing(on_pick=error))
    with caplog.at_level(logging.WARNING):
        assert contained.pick(LOGITS, [1]).token_id in range(4)
        assert contained.pick(LOGITS, [1, 0]).token_id in range(4)
    assert contained.failure is not None
    assert "NaN in it" in contained.failure
    assert [bool(record.exc_info) for record in caplog.records] == [isinstance(error, IndexError)]


def test_after_a_failing_rewind_no_pick_counts() -> None:
    """A picker that did not go back would pick for another text."""
    contained = GuardedPicker(Failing(on_rewind=ValueError("cannot roll back")))
    contained.pick(LOGITS, [1, 2])
    assert contained.failure is None
    contained.rewind(1)
    contained.pick(LOGITS, [1])
    assert contained.failure is not None
