"""The dual-threshold trigger (PipeSD, section 3.3)."""

from edge_agent.control.policies.window import DualThresholdTrigger, TriggerSettings

SETTINGS = TriggerSettings(sequence_threshold=0.5, token_threshold=0.2, max_window=6)


def fired_at(probabilities: list[float]) -> list[int]:
    trigger = DualThresholdTrigger(SETTINGS)
    return [i for i, p in enumerate(probabilities) if trigger.observe(p)]


def test_one_bad_token_fires() -> None:
    """R2: a single improbable token asks for verification at once."""
    assert fired_at([0.99, 0.2, 0.99]) == [1]


def test_a_run_of_mediocre_tokens_fires() -> None:
    """R1: the product of the window's probabilities falls to the threshold."""
    assert fired_at([0.8, 0.8, 0.8, 0.8]) == [3]


def test_the_window_is_bounded_and_starts_again() -> None:
    """Certain drafts fire after `max_window`, and again after as many more."""
    assert fired_at([1.0] * 13) == [5, 11]
