"""Robust running estimates."""

import random

import pytest

from edge_agent.control.estimators import (
    Line,
    LineEstimator,
    RollingMedian,
    RoundTripEstimator,
    TrimmedMean,
    fit_line,
)


def noisy_line(seed: int, num: int = 100, outliers: int = 0) -> list[tuple[int, float]]:
    """20 ms + 3 ms a token with 0.5 ms of noise; the first `outliers` are up to 2 s late."""
    rng = random.Random(seed)
    samples = []
    for i in range(num):
        size = rng.randint(1, 8)
        late_s = rng.uniform(0.1, 2.0) if i < outliers else 0.0
        samples.append((size, 0.020 + 0.003 * size + rng.gauss(0.0, 0.0005) + late_s))
    rng.shuffle(samples)
    return samples


def test_an_exact_line_is_found() -> None:
    """Probes of 1 to 8 tokens without noise give both costs to the digit."""
    line = fit_line([(n, 0.025 + 0.116 * n) for n in range(1, 9)])
    assert line is not None
    assert line.intercept_s == pytest.approx(0.025)
    assert line.slope_s == pytest.approx(0.116)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("outliers", [0, 10, 20])
def test_stalls_do_not_move_the_line(seed: int, outliers: int) -> None:
    """With a fifth of the samples up to 2 s late the fit is as good as without."""
    line = fit_line(noisy_line(seed, outliers=outliers))
    assert line is not None
    assert line.intercept_s == pytest.approx(0.020, rel=0.05)
    assert line.slope_s == pytest.approx(0.003, rel=0.1)


def test_noise_is_not_taken_for_a_slope() -> None:
    """Where size makes no difference the slope is 0 in nearly all fits, not half the noise."""
    slopes = []
    for seed in range(40):
        rng = random.Random(seed)
        line = fit_line([(rng.randint(1, 8), 0.030 + rng.gauss(0.0, 0.002)) for _ in range(100)])
        assert line is not None
        slopes.append(line.slope_s)
    assert sum(slope > 0.0 for slope in slopes) <= 4


def test_neither_cost_is_negative() -> None:
    """A falling line becomes flat, one that starts below zero goes through the origin."""
    assert fit_line([(n, 1.0 - 0.1 * n) for n in range(1, 9)]) == Line(pytest.approx(0.55), 0.0)
    line = fit_line([(n, 0.1 * n - 0.05) for n in range(1, 9)])
    assert line is not None
    assert line.intercept_s == 0.0
    assert 0.08 < line.slope_s < 0.1


def test_one_size_tells_nothing_of_the_slope() -> None:
    """Equal batch sizes, or no sample at all, give no line."""
    assert fit_line([(4, 0.03)] * 20) is None
    assert fit_line([]) is None
    assert fit_line([(4, 0.03)]) is None


def test_the_line_is_fitted_when_the_window_has_turned_over() -> None:
    """First after the 8 probes, then after as many new samples as the last fit was made from, at most 100."""
    estimator = LineEstimator()
    refitted = [i for i in range(1, 501) if estimator.add(i % 8 + 1, 0.01 * (i % 8 + 1))]
    assert refitted == [8, 16, 32, 64, 128, 228, 328, 428]


def test_a_fit_that_fails_keeps_the_line() -> None:
    """When all batches have become equally long the costs stay as they were."""
    estimator = LineEstimator(first_fit=4, size=4)
    for size in (1, 2, 3, 4, 5, 5, 5, 5):
        estimator.add(size, 0.01 * size)
    assert estimator.line is not None
    assert estimator.line.slope_s == pytest.approx(0.01)


def test_the_trimmed_mean_ignores_spikes() -> None:
    """Ten per cent of the values at each end do not count; old values drop out."""
    mean = TrimmedMean(size=100, trim=0.1)
    assert mean.value is None
    for i in range(100):
        mean.add(5.0 if i % 10 == 0 else 0.007)
    assert mean.value == pytest.approx(0.007)
    for _ in range(100):
        mean.add(0.009)
    assert mean.value == pytest.approx(0.009)


def test_the_median_is_that_of_the_last_values() -> None:
    """None at first; then the middle of the window."""
    rolling = RollingMedian(size=3)
    assert rolling.value is None
    for value in (9.0, 1.0, 2.0, 3.0):
        rolling.add(value)
    assert rolling.value == 2.0


def test_the_round_trip_is_smoothed_as_in_rfc_6298() -> None:
    """First sample R: SRTT = R, RTTVAR = R/2; then the gains 1/8 and 1/4."""
    estimator = RoundTripEstimator(size=2)
    assert estimator.min_s is None
    estimator.add(0.100)
    assert (estimator.smoothed_s, estimator.deviation_s) == (0.100, 0.050)
    estimator.add(0.180)
    assert estimator.deviation_s == pytest.approx(0.050 + (0.080 - 0.050) / 4)
    assert estimator.smoothed_s == pytest.approx(0.110)
    assert estimator.min_s == 0.100
    estimator.add(0.150)
    assert estimator.min_s == 0.150
