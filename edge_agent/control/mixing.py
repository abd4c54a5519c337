"""Which source drafts next: the model, or a run that was looked up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from edge_agent.control.monitor import EnvironmentSnapshot

__all__ = ["expected_length", "takes_lookup"]


def expected_length(confidences: Sequence[float]) -> float:
    """How many of a run's drafts are right before the first wrong one, on average."""
    return sum(accumulate(confidences, lambda left, right: left * right), 0.0)


def takes_lookup(
    confidences: Sequence[float], costs: EnvironmentSnapshot | None, acceptance: float, max_ahead: int
) -> bool:
    """Whether a run of these confidences is to be taken instead of what the model would draft.

    The run costs no drafting, the model `gamma` a token: its expected length counts by what is left of a pass
    once two tokens are drafted, and not at all if a draft takes half a pass. Without `costs` time does not
    count. `acceptance`: how likely a draft of the model is right, `max_ahead`: how many it drafts.
    """
    weight = 1.0
    if costs is not None:
        if costs.gamma_s is None or not costs.step_s:
            return True
        weight = max(0.0, 1.0 - 2.0 * costs.gamma_s / costs.step_s)
    return expected_length(confidences) > weight * expected_length([acceptance] * max_ahead)
