"""Common prefixes."""

import pytest

from pipesd_vllm.wire import common_prefix_length


@pytest.mark.parametrize(
    ("left", "right", "length"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 9, 3], 1), ([7], [8], 0)],
)
def test_the_length_is_that_of_what_is_equal_from_the_start(
    left: list[int], right: list[int], length: int
) -> None:
    """What agrees again behind a difference does not count; the order of the two does not matter."""
    assert common_prefix_length(left, right) == length
    assert common_prefix_length(right, left) == length
