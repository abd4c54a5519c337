"""One measurement in live traffic."""

import pytest

from edge_agent.control.tuning.tuner import Trial, TrialSettings

from .surface import BASE


def trial(**settings: float) -> Trial:
    return Trial(BASE, TrialSettings(**settings))  # type: ignore[arg-type]


def fed(commits: list[tuple[int, float]], **settings: float) -> Trial:
    new = trial(**settings)
    for num_tokens, elapsed_s in commits:
        new.add(num_tokens, elapsed_s, 1)
    return new


def test_cost_is_time_over_tokens() -> None:
    """TPT is total time over total tokens, not the mean of the commits' rates."""
    seen = fed([(1, 0.03), (9, 0.07)]).finish()
    assert seen.cost_ms == pytest.approx(10.0)
    assert seen.num_tokens == 10


def test_lambda_adds_target_passes() -> None:
    """With lambda = 40 ms a pass that yields four tokens costs 10 ms a token on top."""
    assert fed([(4, 0.08)] * 4, pass_weight_ms=40.0).finish().cost_ms == pytest.approx(20.0 + 10.0)


def test_steady_traffic_is_complete_with_64_tokens() -> None:
    """Not a token earlier, however steady."""
    assert not fed([(1, 0.02)] * 63).is_complete()
    assert fed([(1, 0.02)] * 64).is_complete()


def test_noisy_traffic_is_measured_longer() -> None:
    """Commits that scatter a lot need more tokens, up to a bound."""
    noisy = [(1, 0.15), (7, 0.01)]
    assert not fed(noisy * 8).is_complete()
    assert fed(noisy * 24).is_complete()


def test_a_noisy_trial_that_is_clearly_worse_ends_with_64_tokens() -> None:
    """There is no use in knowing exactly how bad it is."""
    noisy = fed([(1, 0.15), (7, 0.01)] * 8)
    assert not noisy.is_complete(best_cost_ms=20.0)
    assert noisy.is_complete(best_cost_ms=11.0)


def test_scatter_gives_the_standard_error() -> None:
    """With equal tokens a commit it is the textbook error of a mean."""
    seen = fed([(4, 0.06), (4, 0.10)] * 8).finish()
    assert seen.relative_error == pytest.approx(0.02 * (16 / 15) ** 0.5 / 16**0.5 / 0.08)


def test_hopeless_only_by_factor_and_margin() -> None:
    """After 16 commits, 1.5 times the best with a margin of a quarter is the limit."""
    assert not fed([(1, 0.0186)] * 16).is_hopeless(10.0)
    assert fed([(1, 0.0189)] * 16).is_hopeless(10.0)


def test_a_stall_is_noticed_before_16_tokens() -> None:
    """Two seconds for one token are as bad as they could be over 16, without waiting for these."""
    assert fed([(1, 2.0)]).is_hopeless(20.0)
    assert fed([(1, 2.0)]).finish().cost_ms == pytest.approx(2000.0)


def test_one_slow_commit_is_no_reason_to_give_up() -> None:
    """A hiccup of twenty times the usual is within the noise of a beginning trial."""
    assert not fed([(4, 0.08), (1, 0.4), (4, 0.08)]).is_hopeless(20.0)
