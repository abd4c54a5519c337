"""The edge's drafts beyond the committed frontier, laid beside the committed stream. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from edge_agent.api import Source
from edge_agent.control import ChainView, CheckedDraft, CommitOutcome
from edge_agent.errors import CloudMisbehaved
from edge_agent.sampling import DraftToken
from pipesd_vllm.wire import Commit, Draft, TokenLogprobs, confidence_byte

__all__ = ["DraftChain"]


class DraftChain:
    """Committed tokens of one turn and the drafted continuation, some of it already sent.

    Positions are absolute (prompt first). Node ids on the wire are given out in order.
    """

    def __init__(self, prompt: Sequence[int], vocab_size: int = 0) -> None:
        self.tokens = list(prompt)
        """Prompt and committed tokens."""
        self.vocab_size = vocab_size
        """The target's; known once it has been reached."""
        self._drafted: deque[DraftToken] = deque()
        self._num_sent = 0
        self._next_id = 1
        self._verify_until = 0
        """Verification was asked for up to this position (exclusive)."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Start over with `prompt`."""
        self.tokens = list(prompt)
        self.void()

    @property
    def frontier(self) -> int:
        """Position of the next committed token."""
        return len(self.tokens)

    @property
    def num_drafted(self) -> int:
        """Drafts beyond the frontier, sent or not."""
        return len(self._drafted)

    @property
    def num_unsent(self) -> int:
        return len(self._drafted) - self._num_sent

    @property
    def num_sent(self) -> int:
        """Drafts beyond the frontier that the server has."""
        return self._num_sent

    @property
    def length(self) -> int:
        """Prompt, committed tokens and drafts."""
        return len(self.tokens) + len(self._drafted)

    @property
    def awaits_commit(self) -> bool:
        """Verification was asked for and has not been answered."""
        return self._verify_until > self.frontier

    @property
    def drafted(self) -> Sequence[DraftToken]:
        """The drafts beyond the frontier."""
        return self._drafted

    def view(self) -> ChainView:
        """What a policy decides by."""
        return ChainView(self.num_drafted, self.num_unsent, self.awaits_commit)

    def append(self, position: int, draft: DraftToken) -> bool:
        """Take a draft if it continues the chain; False (and no change) if it does not."""
        if position != self.length:
            return False
        self._drafted.append(draft)
        return True

    def agrees_with_committed(self, position: int, token: int) -> bool:
        """Whether a draft was right, as far as its position has been committed."""
        return position >= self.frontier or self.tokens[position] == token

    def take_unsent(
        self,
        turn: int,
        *,
        verify: bool,
        confidence: Callable[[DraftToken], float] | None = None,
        stream: int = 0,
    ) -> Draft | None:
        """The frame that brings the server up to date; with `verify` its answer is awaited from now on.

        When the server has everything, there is no frame, or with `verify` the last node
        once more: a node sent twice changes nothing, but the flag is heard. `confidence` estimates how likely
        a draft is right; None: the server is not told.
        """
        unsent = [self._drafted[i] for i in range(self._num_sent, len(self._drafted))]
        if unsent:
            frame = Draft(
                turn=turn,
                first=self._next_id,
                base=self.frontier + self._num_sent,
                anchor=self._next_id - 1 if self._num_sent else 0,
                tokens=[draft.token_id for draft in unsent],
                verify=verify,
                stream=stream,
                confidences=bytes(confidence_byte(confidence(draft)) for draft in unsent)
                if confidence is not None
                else b"",
            )
        elif verify and self._num_sent:
            frame = self._repeat_last(turn, stream)
        else:
            return None
        self._next_id += len(unsent)
        self._num_sent = len(self._drafted)
        if verify:
            self._verify_until = self.length
        return frame

    def _repeat_last(self, turn: int, stream: int) -> Draft:
        last = self._next_id - 1
        return Draft(
            turn=turn,
            first=last,
            base=self.frontier + self._num_sent - 1,
            anchor=last - 1 if self._num_sent > 1 else 0,
            tokens=[self._drafted[self._num_sent - 1].token_id],
            stream=stream,
        )

    def apply(self, commit: Commit) -> CommitOutcome:
        """Extend the text by `commit` and compare its tokens with the drafts. A replayed part is skipped.

        Raises `CloudMisbehaved`, and changes nothing, for a gap, a contradiction of what was committed
        before, ids outside the vocabulary, or log-probabilities that do not go with the tokens.
        """
        new = self._new_part(commit.base, commit.tokens)
        logprobs = _logprobs_of(commit, len(new))
        rejected, num_discarded = False, 0
        sources = []
        checked = []
        for token in new:
            draft = self._drafted[0] if self._drafted else None
            accepted = draft is not None and draft.token_id == token
            self.tokens.append(token)
            sources.append(draft.source if draft and accepted and self._num_sent else Source.CORRECTED)
            if draft is None:
                continue
            if draft.source is Source.DRAFTED:
                checked.append(CheckedDraft(draft.probability, accepted))
            if accepted:
                self._drafted.popleft()
                self._num_sent = max(0, self._num_sent - 1)
            else:
                num_discarded += self.void()
                rejected = True
        _mark_servers_own(sources, commit)
        return CommitOutcome(
            tuple(new),
            num_verified=commit.drafted,
            num_accepted=commit.accepted,
            rejected=rejected,
            num_discarded=num_discarded,
            sources=tuple(sources),
            checked_drafts=tuple(checked),
            logprobs=logprobs,
        )

    def void(self) -> int:
        """Drop all drafts, and wait for no answer about them; returns how many there were."""
        num = len(self._drafted)
        self._drafted.clear()
        self._num_sent = 0
        self._verify_until = 0
        return num

    def restart(self) -> None:
        """The turn begins anew on the server: nothing has been sent to it, and nothing asked of it."""
        self._num_sent = 0
        self._next_id = 1
        self._verify_until = 0

    def _new_part(self, base: int, tokens: Sequence[int]) -> Sequence[int]:
        if base > self.frontier:
            raise CloudMisbehaved(f"the server skipped from position {self.frontier} to {base}")
        if any(not 0 <= token < self.vocab_size for token in tokens):
            raise CloudMisbehaved("the server committed a token id outside its vocabulary")
        overlap = self.frontier - base
        if list(tokens[:overlap]) != self.tokens[base : base + min(overlap, len(tokens))]:
            raise CloudMisbehaved("the server contradicted tokens it had committed")
        return tokens[overlap:]


def _mark_servers_own(sources: list[Source], commit: Commit) -> None:
    """Mark the tokens of `commit` that the server itself had drafted; `sources` are those of all of them.

    A pass yields one token, and one for each draft that it kept; `accepted` counts the edge's. Where frames
    of several passes are merged, the places are a guess; how many there are is not.
    """
    if not commit.passes or len(sources) != len(commit.tokens):
        return
    num_more = len(sources) - commit.passes - commit.accepted
    for place, source in enumerate(sources[:-1]):
        if num_more > 0 and source is Source.CORRECTED:
            sources[place] = Source.SERVER
            num_more -= 1


def _logprobs_of(commit: Commit, num_new: int) -> tuple[TokenLogprobs, ...] | None:
    """Those of the last `num_new` tokens of `commit`, the ones it was not a replay of.

    Raises `CloudMisbehaved` if there are some, but not one for each token.
    """
    if commit.logprobs is None:
        return None
    if len(commit.logprobs) != len(commit.tokens):
        raise CloudMisbehaved("the server sent log-probabilities that do not go with its tokens")
    return tuple(commit.logprobs[len(commit.logprobs) - num_new :])
