"""The plugin's own time, on a clock that is moved by hand."""

from __future__ import annotations

from pipesd_vllm.scheduling.stopwatch import Stopwatch


def test_only_the_blocks_count() -> None:
    """What lies between two blocks is somebody else's time; asked again, it starts from nothing."""
    readings = iter([1.0, 1.5, 10.0, 12.0, 20.0, 21.0])
    watch = Stopwatch(lambda: next(readings))
    for _ in range(2):
        with watch:
            pass
    assert watch.take() == 2.5
    with watch:
        pass
    assert watch.take() == 1.0
    assert watch.take() == 0.0


def test_a_block_that_fails_counts() -> None:
    """Time goes by in it all the same, and the error flies on."""
    readings = iter([1.0, 3.0])
    watch = Stopwatch(lambda: next(readings))
    try:
        with watch:
            raise ValueError
    except ValueError:
        assert watch.take() == 2.0
