"""The seam between the session loop and a drafting policy. Pure: no clock, no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from edge_agent.api import Source
from edge_agent.control.confidence import CheckedDraft
from pipesd_vllm.wire import TokenLogprobs


class Decision(enum.Enum):
    """What to do with the drafts that the server does not have yet."""

    KEEP = "keep"
    """Hold them back."""
    UPLOAD = "upload"
    """Send them; the server keeps them in its trie."""
    VERIFY = "verify"
    """Send them with the NAV trigger: check what the trie holds now."""


@dataclass(frozen=True, slots=True)
class ChainView:
    """The draft chain at the moment of a decision, in tokens. The newest draft is included."""

    num_drafted: int
    """Drafts beyond the committed frontier, sent or not."""
    num_unsent: int
    awaiting_commit: bool
    """Verification was asked for and has not been answered."""


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """What a `Commit` made of text and drafts."""

    new_tokens: tuple[int, ...] = ()
    """These extend the text; what was committed before is left out."""
    num_verified: int = 0
    """Drafts that the server checked."""
    num_accepted: int = 0
    """Those of them that it kept."""
    rejected: bool = False
    """A draft was contradicted: everything drafted after it is void."""
    num_discarded: int = 0
    """Drafts dropped for that."""
    sources: tuple[Source, ...] = ()
    """Of each new token: that of its draft, if the server had been sent it."""
    checked_drafts: tuple[CheckedDraft, ...] = ()
    """The model's drafts of committed positions, sent or not, oldest first: only the last may be wrong."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """The target's view of each new token, where it was asked for."""


@dataclass(frozen=True, slots=True)
class PolicyParameters:
    """What a policy works with; the tuner varies what acts in a mode (`dimensions_for`)."""

    sequence_threshold: float
    """R1: ask for verification once the window's probability product is at most this."""
    token_threshold: float
    """R2: ask for verification once the newest draft's probability is at most this."""
    max_ahead: int
    """Look-ahead bound: most drafts beyond the committed frontier."""
    patience_ms: int
    """How long the server waits for drafts in mode `balanced`; a session asks for it when it opens."""
    max_window: int
    """Most drafts between two requests to verify."""
    confidence_margin: float = 1.0
    """Ask for verification below this multiple of the break-even confidence."""

    @property
    def window_bound(self) -> int:
        """Drafts at which a window is verified at the latest; at least 1."""
        return max(1, min(self.max_window, self.max_ahead))


class Policy(Protocol):
    """Decides for one session; created per session, told of every draft and commit in order."""

    def on_draft(self, probability: float, view: ChainView) -> Decision:
        """`probability`: the draft model's own, of its newest token; calibrated for sampled text."""
        ...

    def on_commit(self, outcome: CommitOutcome) -> None:
        """The target answered; called before drafting goes on."""
        ...

    def after_commit(self, view: ChainView) -> Decision:
        """What to do, after `on_commit`, with drafts held back while the answer was awaited.

        Without this call they would leave with the next draft, one draft step later.
        """
        ...

    def ahead(self, view: ChainView) -> int:
        """Most drafts that may exist beyond the frontier now (0: do not draft)."""
        ...

    def retune(self, parameters: PolicyParameters) -> None:
        """Work with other parameters from now on."""
        ...

    def serve(self, *, eager: bool) -> None:
        """`eager`: the server decodes by itself and verifies what has arrived without being asked."""
        ...
