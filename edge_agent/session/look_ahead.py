"""How far one session drafts ahead of the committed frontier, and what it waits for meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.control.policies.base import ChainView
from edge_agent.session.chain import DraftChain

__all__ = ["LookAhead"]


class LookAhead:
    """Limits are lengths of the whole sequence in tokens, prompt first."""

    def __init__(self, chain: DraftChain, most: int, ahead: Callable[[ChainView], int]) -> None:
        """`most`: no draft beyond this length. `ahead`: how many drafts the policy wants."""
        self._chain = chain
        self._most = most
        self._ahead = ahead
        self._verify_until = 0
        """Verification was asked for up to this position (exclusive)."""
        self._told_limit = 0
        """Length up to which the worker was told to draft."""

    @property
    def awaits_commit(self) -> bool:
        """Verification was asked for and has not been answered."""
        return self._verify_until > self._chain.frontier

    @property
    def is_stalled(self) -> bool:
        """The worker has stopped and nothing is being verified: no event will come by itself."""
        return not self.awaits_commit and self._drafted_to >= self._told_limit

    @property
    def may_go_on(self) -> bool:
        """Whether more drafts than there are make sense now."""
        return self._limit() > self._drafted_to

    def view(self) -> ChainView:
        """What the policy decides by."""
        return ChainView(self._chain.num_drafted, self._chain.num_unsent, self.awaits_commit)

    def asked_to_verify(self) -> None:
        """Everything sent so far is to be verified."""
        self._verify_until = self._chain.frontier + self._chain.num_sent

    def give_up_waiting(self) -> None:
        """What was asked for will not be answered: it is void, or the turn was opened anew."""
        self._verify_until = 0

    def new_limit(self) -> int:
        """Length up to which drafting makes sense now, for the worker to be told."""
        self._told_limit = self._limit()
        return self._told_limit

    @property
    def _drafted_to(self) -> int:
        return self._chain.frontier + self._chain.num_drafted

    def _limit(self) -> int:
        return min(self._chain.frontier + self._ahead(self.view()), self._most)
