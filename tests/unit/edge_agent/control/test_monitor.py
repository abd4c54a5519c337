"""The environment monitor (PipeSD, section 3.2)."""

import random

import pytest

from edge_agent.control.monitor import EnvironmentMonitor, EnvironmentSnapshot, LinkEstimate, drifted


def play_rounds(
    monitor: EnvironmentMonitor, num: int, *, start_up_s: float, per_token_s: float, seed: int = 0
) -> None:
    """Rounds over a 30 ms round trip with 0.3 ms of jitter; the server queues 1 ms and steps 20 ms."""
    rng = random.Random(seed)
    for _ in range(num):
        size = rng.randint(1, 8)
        transport_s = 0.030 + start_up_s + per_token_s * size + abs(rng.gauss(0.0, 0.0003))
        monitor.on_verify_round(size, transport_s + 0.021, queue_s=0.001, step_s=0.020)


def test_nothing_is_assumed_before_the_first_sample() -> None:
    """All estimates start as None."""
    assert EnvironmentMonitor().snapshot() == EnvironmentSnapshot()
    assert EnvironmentMonitor().link() == LinkEstimate()


def test_timed_sends_give_alpha_and_beta() -> None:
    """Probes of 1 to 8 tokens are enough for a first estimate."""
    monitor = EnvironmentMonitor()
    for size in range(1, 9):
        monitor.on_upload(size, 0.025 + 0.116 * size)
    link = monitor.link()
    assert link.alpha_s == pytest.approx(0.025)
    assert link.beta_s_per_token == pytest.approx(0.116)


def test_rounds_alone_give_beta_and_the_servers_share() -> None:
    """Passive measurement: queue and step are the server's word, the rest is round trip and transmission."""
    monitor = EnvironmentMonitor()
    play_rounds(monitor, 128, start_up_s=0.0, per_token_s=0.004)
    snapshot = monitor.snapshot()
    assert snapshot.beta_s_per_token == pytest.approx(0.004, rel=0.05)
    assert snapshot.step_s == pytest.approx(0.020)
    assert snapshot.queue_s == pytest.approx(0.001)


def test_pings_part_start_up_from_round_trip() -> None:
    """What an upload takes beyond an empty message is alpha, wherever the round trip lies."""
    monitor = EnvironmentMonitor()
    for _ in range(5):
        monitor.on_round_trip(0.030)
    play_rounds(monitor, 128, start_up_s=0.025, per_token_s=0.004)
    assert monitor.link().alpha_s == pytest.approx(0.025, rel=0.1)


def test_a_persistent_stream_shows_no_start_up() -> None:
    """Measured, not assumed: with pings as slow as uploads alpha is below a millisecond, beta 0."""
    monitor = EnvironmentMonitor()
    for _ in range(5):
        monitor.on_round_trip(0.030)
    play_rounds(monitor, 128, start_up_s=0.0, per_token_s=0.0)
    link = monitor.link()
    assert link.alpha_s is not None
    assert link.alpha_s < 0.001
    assert link.beta_s_per_token == 0.0


def test_the_round_trip_excludes_transmission() -> None:
    """Once beta is known, the tokens' own time is taken out of the round trip."""
    monitor = EnvironmentMonitor()
    play_rounds(monitor, 300, start_up_s=0.0, per_token_s=0.010)
    snapshot = monitor.snapshot()
    assert snapshot.rtt_s == pytest.approx(0.030, rel=0.05)
    assert snapshot.rtt_min_s == pytest.approx(0.030, rel=0.05)
    assert snapshot.rtt_deviation_s is not None
    assert snapshot.rtt_deviation_s < 0.005


def test_the_dearer_of_two_views_counts() -> None:
    """A send that returns at once hides beta, rounds show it: the estimate is the larger."""
    monitor = EnvironmentMonitor()
    for size in range(1, 9):
        monitor.on_upload(size, 0.0001)
    play_rounds(monitor, 128, start_up_s=0.0, per_token_s=0.004)
    assert monitor.link().beta_s_per_token == pytest.approx(0.004, rel=0.05)


def test_gamma_survives_a_stall() -> None:
    """A draft step of a second (a prefill, a suspended laptop) does not move gamma."""
    monitor = EnvironmentMonitor()
    for i in range(100):
        monitor.on_draft_step(1.0 if i % 20 == 0 else 0.007)
    assert monitor.link().gamma_s == pytest.approx(0.007)


def test_acceptance_is_that_of_the_last_hundred_rounds() -> None:
    """Rounds weigh by their drafts; old ones drop out; empty and impossible ones do not count."""
    monitor = EnvironmentMonitor()
    monitor.on_acceptance(0, 0)
    monitor.on_acceptance(3, 4)
    assert monitor.snapshot().acceptance_rate is None
    monitor.on_acceptance(8, 8)
    monitor.on_acceptance(2, 0)
    assert monitor.snapshot().acceptance_rate == pytest.approx(0.8)
    for _ in range(100):
        monitor.on_acceptance(4, 1)
    assert monitor.snapshot().acceptance_rate == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be_change_nothing(bad: float) -> None:
    """NaN, endless and negative times, also from the server, leave every estimate as it was."""
    monitor = EnvironmentMonitor()
    monitor.on_draft_step(bad)
    monitor.on_upload(4, bad)
    monitor.on_round_trip(bad)
    monitor.on_verify_round(4, bad, 0.0, bad)
    monitor.on_verify_round(4, 0.05, bad, 0.02)
    monitor.on_verify_round(4, 0.05, 0.02, bad)
    assert monitor.snapshot() == EnvironmentSnapshot()


def test_a_server_that_claims_more_time_than_passed_gives_no_round_trip() -> None:
    """Its step time is noted, but no round trip is negative."""
    monitor = EnvironmentMonitor()
    monitor.on_verify_round(4, 0.010, queue_s=0.0, step_s=0.020)
    assert monitor.snapshot().rtt_s is None
    assert monitor.snapshot().step_s == 0.020


def test_drift_is_more_than_a_fifth_of_any_cost() -> None:
    """Section 3.2; below 50 us nothing counts as drift, and a first measurement always does."""
    link = LinkEstimate(0.010, 0.0, 0.007)
    assert not drifted(link, LinkEstimate(0.0119, 0.0, 0.007))
    assert drifted(link, LinkEstimate(0.0121, 0.0, 0.007))
    assert drifted(link, LinkEstimate(0.010, 0.0, 0.005))
    assert not drifted(link, LinkEstimate(0.010, 5e-6, 0.007))
    assert drifted(link, LinkEstimate(0.010, 2e-5, 0.007))
    assert not drifted(link, LinkEstimate(0.0121, 0.0, 0.007), factor=0.5)
    assert drifted(LinkEstimate(), link)
    assert not drifted(LinkEstimate(), LinkEstimate())


def test_the_time_a_token_takes() -> None:
    """Time over tokens of the last commits; those without tokens or with an impossible time do not count."""
    monitor = EnvironmentMonitor()
    assert monitor.snapshot().tpt_s is None
    for num_tokens, elapsed_s in [(3, 0.3), (1, 0.3), (0, 9.0), (2, -1.0), (1, 30.0)]:
        monitor.on_progress(num_tokens, elapsed_s)
    assert monitor.snapshot().tpt_s == pytest.approx(0.15)
