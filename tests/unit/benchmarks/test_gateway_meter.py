"""Reading this very process, and shares of CPU."""

from __future__ import annotations

import os
import threading

import pytest

from benchmarks.gateway_meter import CpuSplit, ProcessMeter


def test_shares() -> None:
    """The event loop's part is of all three; without the server's figure there is none."""
    earlier, later = CpuSplit(1.0, 2.0, 10.0), CpuSplit(2.0, 5.0, 26.0)
    used = later.since(earlier)
    assert used == CpuSplit(1.0, 3.0, 16.0)
    assert used.loop_share == pytest.approx(0.05)
    assert CpuSplit(1.0, 2.0).since(CpuSplit(0.5, 1.0)) == CpuSplit(0.5, 1.0, None)
    assert CpuSplit(1.0, 2.0).loop_share is None
    assert CpuSplit(0.0, 0.0, 0.0).loop_share is None


def test_other_threads_are_counted_apart() -> None:
    """Work of a thread that still runs is not the main thread's."""
    meter = ProcessMeter(os.getpid())
    before = meter.cpu()
    done, leave = threading.Event(), threading.Event()

    def work() -> None:
        while meter.cpu().since(before).other_s < 0.05:  # until the system's clock has noticed
            sum(range(10_000))
        done.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert done.wait(60)
    used = meter.cpu().since(before)
    leave.set()
    thread.join()
    assert used.other_s >= 0.05
    assert meter.rss() > 1 << 20
