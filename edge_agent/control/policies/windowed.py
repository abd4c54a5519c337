"""What all policies share: a window, a bound on the look-ahead, and never a wait that nothing ends.

While verification is under way its commit moves the frontier. While none is, `ahead` always has room for
another draft, and a draft at the bound asks for verification: so a session that can draft never
stands still, in whatever state commits, rollbacks and the tuner have left it.
"""

from __future__ import annotations

from edge_agent.control.policies.base import ChainView, Decision, PolicyParameters, RoundOutcome
from edge_agent.control.policies.window import NavWindow, TriggerSettings

NEVER = 0.0
"""A threshold that no probability reaches."""


class WindowedPolicy:
    """Base of the policies; satisfies `Policy`. A subclass says which thresholds it uses.

    The default behaviour is the paper's: one request at a time, drafting goes on while it waits.
    """

    def __init__(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window = NavWindow(self._trigger_settings())

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        self._window.observe(probability, view)
        if view.awaiting_commit:
            return Decision.KEEP
        if self._window.due or self._at_bound(view):
            return self._verify()
        return self._before_trigger(view)

    def on_commit(self, outcome: RoundOutcome) -> None:
        if outcome.rolled_back:
            self._window.void()

    def after_commit(self, view: ChainView) -> Decision:
        """What to do with drafts held back while waiting, now that the answer is there.

        Without this call they go out with the next draft, one draft step later.
        """
        self._window.fit(view.num_drafted)
        if view.awaiting_commit or view.num_unsent == 0:
            return Decision.KEEP
        return self._verify() if self._window.due else self._catch_up()

    def on_void(self) -> None:
        self._window.void()

    def ahead(self, view: ChainView) -> int:
        if view.awaiting_commit:
            return self._parameters.max_ahead
        if self._window.due:
            return view.num_drafted + 1
        return max(self._parameters.max_ahead, view.num_drafted + 1)

    def retune(self, parameters: PolicyParameters) -> None:
        self._parameters = parameters
        self._window.retune(self._trigger_settings())

    def _trigger_settings(self) -> TriggerSettings:
        """Thresholds for the present parameters."""
        raise NotImplementedError

    def _before_trigger(self, view: ChainView) -> Decision:
        """No verification is under way or due: send early?"""
        return Decision.KEEP

    def _catch_up(self) -> Decision:
        """A commit left drafts behind that the server does not have, and no verification is due."""
        return Decision.KEEP

    def _verify(self) -> Decision:
        self._window.close()
        return Decision.VERIFY

    def _at_bound(self, view: ChainView) -> bool:
        return view.num_drafted >= self._parameters.max_ahead

    def _max_window(self) -> int:
        return max(1, min(self._parameters.max_window, self._parameters.max_ahead))


class IdlePolicy(WindowedPolicy):
    """One upload a round; idle while waiting. A draft that was under way at the trigger is kept."""

    def ahead(self, view: ChainView) -> int:
        if view.awaiting_commit:
            return view.num_drafted
        if self._window.due:
            return view.num_drafted + 1
        bound = min(self._parameters.max_ahead, view.num_drafted + self._window.num_left)
        return max(bound, view.num_drafted + 1)
