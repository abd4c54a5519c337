"""The ratio of two verify steps."""

import pytest

from benchmarks.micro.sampler import Cost, Shape


def test_the_ratio_is_that_of_whole_steps() -> None:
    """What is not sampling counts on both sides."""
    assert Cost(0.0, stock_ms=10.0, coupled_ms=13.0, rest_ms=90.0).ratio == pytest.approx(1.03)
    assert Cost(1.0, stock_ms=30.0, coupled_ms=10.0, rest_ms=0.0).ratio == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("temperature", "coupled_ms", "verdict"),
    [(0.0, 12.0, "limit 1.03: met"), (0.0, 14.0, "limit 1.03: MISSED"), (1.0, 14.0, "limit 1.10: met")],
)
def test_the_limits_are_named(temperature: float, coupled_ms: float, verdict: str) -> None:
    """Each temperature has its own; the line says whether it is kept, and the whole step's time."""
    line = str(Cost(temperature, 10.0, coupled_ms, 90.0))
    assert verdict in line
    assert f"T={temperature:g}: ratio 1.0" in line
    assert f"step {90.0 + coupled_ms:.1f} ms" in line


def test_a_temperature_without_a_limit() -> None:
    """Is reported all the same."""
    assert "limit" not in str(Cost(0.5, 10.0, 10.0, 90.0))


def test_rows() -> None:
    """Each session has one position more than drafts."""
    assert Shape(8, 8, 100).num_rows == 72
