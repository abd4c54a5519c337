"""Greedy picking."""

import numpy as np
import pytest

from edge_agent.sampling import GreedyPicker


def test_one_picker_serves_models_of_different_sizes() -> None:
    """The argmax and its softmax probability, whatever the number of tokens."""
    picker = GreedyPicker()
    for num_tokens in (4, 9):
        logits = np.zeros(num_tokens, dtype=np.float32)
        logits[2] = np.log(3.0)
        drafted = picker.pick(logits, [1])
        assert drafted.token_id == 2
        assert drafted.probability == pytest.approx(3.0 / (num_tokens + 2))
