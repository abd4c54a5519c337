"""Whether the server waits for drafts: set by the user, or chosen from measured costs (mode `auto`). Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from edge_agent.control.estimators import RollingRatio
from edge_agent.control.monitor import EnvironmentSnapshot
from pipesd_vllm.wire import Mode

__all__ = [
    "HIGHEST_ACCEPTANCE",
    "Arm",
    "ArmCost",
    "ModeChooser",
    "Stance",
    "cheapest",
    "predicted_overlap",
    "predicted_wait",
]


class Arm(enum.StrEnum):
    """What `ModeChooser` chooses from."""

    STREAM = "stream"
    """Plain streaming; nothing is drafted."""
    OVERLAP = "overlap"
    """The server decodes by itself and uses drafts that come in time."""
    WAIT = "wait"
    """The server waits for drafts, as long as they usually take."""


class Stance(NamedTuple):
    """What a session does now."""

    mode: Mode
    """Of the server."""
    patience_ms: int
    drafts: bool = True


class ArmCost(NamedTuple):
    """A token's cost."""

    ms: float
    passes: float


_HALF_LIFE: Final = 256.0
"""Tokens after which a measurement counts half."""
_PRIOR_TOKENS: Final = 64.0
_PRIOR_TOKENS_OF_WAIT: Final = 16.0
"""Tokens of measurement that a prediction weighs as much as; a wrong one of what waiting takes is dear."""
_PERIOD: Final = 16
"""Tokens between decisions."""
_PROBE: Final = 32
"""Tokens for which drafting is tried again."""
_LEAST_GAIN: Final = 0.98
"""What drafting must bring a token's cost to, as a share of streaming's, to be worth the while."""
_SWITCH: Final = 0.97
"""What another arm must cost, as a share of the present one, to be changed to."""
_FREE_PASS: Final = 0.01
"""What saving a whole pass a token may cost, as a share of streaming's time a token."""
_FIRST_RETRY: Final = 64
_LAST_RETRY: Final = 8192
HIGHEST_ACCEPTANCE: Final = 0.98
"""No estimate of how often drafts are right is taken for more."""


def predicted_overlap(step_ms: float, rtt_ms: float, draft_ms: float, acceptance: float) -> ArmCost:
    """What a token costs if the server decodes by itself and takes drafts as they come.

    After a rejection the edge is a round trip behind. It catches up while `rtt / (step - draft)` tokens are
    decoded, if so many drafts in a row are right; from then on a token takes as long as drafting it.
    """
    if draft_ms >= step_ms:
        return ArmCost(step_ms, 1.0)
    ahead = acceptance ** (rtt_ms / (step_ms - draft_ms) + 1.0)
    ms = step_ms - ahead * (step_ms - draft_ms)
    return ArmCost(ms, ms / step_ms)


def predicted_wait(
    step_ms: float, rtt_ms: float, draft_ms: float, acceptance: float, max_ahead: int
) -> tuple[ArmCost, int]:
    """What a token costs if the server waits for drafts, with the best window; and that window's length.

    A window of n drafts, each right with probability a, yields `(1 - a^(n+1)) / (1 - a)` tokens. After a
    rejection the server waits for a round trip and n drafts; after a window that was right, the next one, and
    the token between them, have been drafted while the pass ran.
    """
    found: tuple[ArmCost, int] | None = None
    for n in range(1, max(1, max_ahead) + 1):
        right = acceptance**n
        num_tokens = (1.0 - right * acceptance) / (1.0 - acceptance)
        ahead_ms = max(0.0, (n + 1) * draft_ms - step_ms)
        ms = step_ms + (1.0 - right) * (rtt_ms + n * draft_ms) + right * ahead_ms
        cost = ArmCost(ms / num_tokens, 1.0 / num_tokens)
        if found is None or cost.ms < found[0].ms:
            found = cost, n
    assert found is not None
    return found


def cheapest(costs: Mapping[Arm, ArmCost], pass_weight_ms: float = 0.0, now: Arm | None = None) -> Arm:
    """The arm of least `time + weight * passes` a token. `costs` has streaming and others.

    Streaming, unless another saves 2 %; `now`, the one in force, unless another saves 3 % more.
    """
    weight = pass_weight_ms + _FREE_PASS * costs[Arm.STREAM].ms
    weighed = {arm: cost.ms + weight * cost.passes for arm, cost in costs.items()}
    if min((weighed[arm] for arm in weighed if arm is not Arm.STREAM), default=math.inf) > (
        _LEAST_GAIN * weighed[Arm.STREAM]
    ):
        return Arm.STREAM
    best = min(weighed, key=weighed.__getitem__)
    return best if now not in weighed or weighed[best] <= _SWITCH * weighed[now] else now


class _Bias:
    """How much longer than predicted a token takes, older ones fading; begins at `prior`, as if measured over
    `num_tokens`."""

    def __init__(self, prior: float, num_tokens: float) -> None:
        self._measured = prior * num_tokens
        self._predicted = num_tokens

    def add(self, num_tokens: int, measured_ms: float, predicted_ms: float) -> None:
        """`num_tokens` took `measured_ms` in all, and should have taken `predicted_ms` each."""
        fading = 0.5 ** (num_tokens / _HALF_LIFE)
        self._measured = self._measured * fading + measured_ms / predicted_ms
        self._predicted = self._predicted * fading + num_tokens

    @property
    def value(self) -> float:
        return self._measured / self._predicted


class ModeChooser:
    """Chooses the arm of least `time + weight * passes` a token, for all sessions of one kind of an agent.

    What an arm costs is predicted from what steps, round trips and drafts cost now and how often drafts are
    right, and corrected by how wrong the prediction was when the arm was in force. It begins with overlap,
    which costs no time. Where drafts save nothing, drafting pauses, and is tried again ever more rarely.
    """

    def __init__(
        self,
        costs: Callable[[], EnvironmentSnapshot],
        *,
        may_wait: bool = True,
        pass_weight_ms: float = 0.0,
        max_ahead: int = 16,
        max_patience_ms: int = 500,
    ) -> None:
        """`pass_weight_ms`: what a target pass is worth (lambda). `max_patience_ms`: longest wait."""
        self._costs = costs
        self._may_wait = may_wait
        self._pass_weight_ms = pass_weight_ms
        self._max_ahead = max_ahead
        self._max_patience_ms = max_patience_ms
        self._biases = {
            Arm.OVERLAP: _Bias(1.0, _PRIOR_TOKENS),
            Arm.WAIT: _Bias(1.1, _PRIOR_TOKENS_OF_WAIT),
        }
        self._plain = RollingRatio()
        self._was_plain = False
        self._predicted: dict[Arm, ArmCost] = {}
        self._patience_ms = 1
        self._num_tokens = 0
        self._decide_at = _PERIOD
        self._draft_at = 0
        self._draft_retry = _FIRST_RETRY
        self.arm = Arm.OVERLAP
        self.reason = "measuring"
        """Why `arm` is in force, for people."""

    @property
    def streaming_ms(self) -> float | None:
        """What a token takes where nothing is drafted; None: not measured yet."""
        return self._plain.value

    @property
    def stance(self) -> Stance:
        """What sessions do now."""
        if self.arm is Arm.WAIT:
            return Stance(Mode.BALANCED, self._patience_ms)
        return Stance(Mode.LATENCY, 0, drafts=self.arm is Arm.OVERLAP)

    def observe(
        self, arm: Arm, num_tokens: int, elapsed_s: float, *, drafted: int, acceptance: float
    ) -> None:
        """A session under `arm` got `num_tokens`, `elapsed_s` after the ones before, with `drafted` checked.

        `acceptance`: how likely a draft is right, at present.
        """
        if num_tokens < 1:
            return
        is_plain = arm is not Arm.WAIT and not drafted
        if is_plain and self._was_plain:  # else the pass before may have held this one up, or not
            self._plain.add(elapsed_s * 1e3, num_tokens)
        self._was_plain = is_plain
        if arm in self._biases and arm in self._predicted:
            self._biases[arm].add(num_tokens, elapsed_s * 1e3, self._predicted[arm].ms)
        self._num_tokens += num_tokens
        if self._num_tokens >= self._decide_at:
            self._decide_at = self._num_tokens + _PERIOD
            self._predict(min(acceptance, HIGHEST_ACCEPTANCE))
            self._decide()

    def _predict(self, acceptance: float) -> None:
        """What the arms cost now, by what is measured; nothing before all of it is."""
        costs, step_ms = self._costs(), self._plain.value
        if step_ms is None or costs.rtt_s is None or costs.gamma_s is None:
            return
        rtt_ms, draft_ms = costs.rtt_s * 1e3, costs.gamma_s * 1e3
        overlap = predicted_overlap(step_ms, rtt_ms, draft_ms, acceptance)
        self._predicted = {Arm.STREAM: ArmCost(step_ms, 1.0), Arm.OVERLAP: overlap}
        wait, window = predicted_wait(step_ms, rtt_ms, draft_ms, acceptance, self._max_ahead)
        patience_ms = round(2.0 * (rtt_ms + window * draft_ms)) + 10
        if self._may_wait and patience_ms <= self._max_patience_ms:
            self._predicted[Arm.WAIT] = wait
            if self.arm is not Arm.WAIT:
                self._patience_ms = patience_ms

    def _decide(self) -> None:
        if not self._predicted:
            return
        if self.arm is Arm.STREAM:
            if self._num_tokens >= self._draft_at:
                self._decide_at = self._num_tokens + _PROBE
                self._enter(Arm.OVERLAP, "trying whether drafts save anything")
            return
        now = self.arm if self.arm in self._predicted else Arm.OVERLAP
        best = cheapest({arm: self._corrected(arm) for arm in self._predicted}, self._pass_weight_ms, now)
        if best is Arm.STREAM:
            self._draft_at = self._num_tokens + self._draft_retry
            self._draft_retry = min(2 * self._draft_retry, _LAST_RETRY)
        else:
            self._draft_retry = _FIRST_RETRY
        self._enter(best, _REASONS[best])

    def _corrected(self, arm: Arm) -> ArmCost:
        cost = self._predicted[arm]
        return cost._replace(ms=cost.ms * self._biases[arm].value) if arm in self._biases else cost

    def _enter(self, arm: Arm, reason: str) -> None:
        self.arm, self.reason = arm, reason


_REASONS: Final = {
    Arm.STREAM: "drafts would save nothing here now",
    Arm.OVERLAP: "drafts that come in time save passes",
    Arm.WAIT: "waiting for drafts costs no time here and saves passes",
}
