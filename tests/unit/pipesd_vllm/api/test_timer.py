"""Timers that are put off, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipesd_vllm.api.turn import PatientTimer


class Handle:
    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandMovedLoop:
    """An event loop's clock and timers; `num_set` counts the timers ever set."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._handles: list[Handle] = []
        self.num_set = 0

    def time(self) -> float:
        return self._now_s

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.num_set += 1
        self._handles.append(Handle(when, callback))
        return self._handles[-1]

    def move(self, to_s: float) -> None:
        """Let time go on and the timers due by then run, in order."""
        while due := [h for h in self._handles if h.due_s <= to_s and not h.is_cancelled]:
            first = min(due, key=lambda handle: handle.due_s)
            self._now_s = max(self._now_s, first.due_s)
            self._handles.remove(first)
            first.callback()
        self._now_s = to_s


@pytest.fixture
def loop() -> HandMovedLoop:
    return HandMovedLoop()


@pytest.fixture
def calls() -> list[float]:
    return []


@pytest.fixture
def timer(loop: HandMovedLoop, calls: list[float]) -> PatientTimer:
    return PatientTimer(loop, 5.0, lambda: calls.append(loop.time()))


def test_it_runs_out_once(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """After the delay, and not again."""
    timer.restart()
    loop.move(4.9)
    assert calls == []
    loop.move(100.0)
    assert calls == [5.0]


def test_restarts_put_it_off(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """The whole delay counts from the last restart, and a hundred restarts set few timers."""
    for second in range(100):
        loop.move(float(second))
        timer.restart()
    assert calls == []
    loop.move(200.0)
    assert calls == [104.0]
    assert loop.num_set < 30


def test_stopped_it_does_nothing(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """Until it is restarted; stopping one that does not run is harmless."""
    timer.stop()
    timer.restart()
    loop.move(3.0)
    timer.stop()
    loop.move(50.0)
    assert calls == []
    timer.restart()
    loop.move(60.0)
    assert calls == [55.0]


def test_restarted_after_it_ran_out(loop: HandMovedLoop, timer: PatientTimer, calls: list[float]) -> None:
    """It runs out again."""
    timer.restart()
    loop.move(10.0)
    timer.restart()
    loop.move(20.0)
    assert calls == [5.0, 15.0]
