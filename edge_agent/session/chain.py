"""The edge's drafts beyond the committed frontier, laid beside the committed stream. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.control.confidence import Judged
from edge_agent.errors import CloudMisbehaved
from edge_agent.sampling.picker import DraftToken
from pipesd_vllm.wire import Commit, Draft, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a `Commit` meant. `new_tokens` extend the text; `discarded` drafts were wrong."""

    new_tokens: tuple[int, ...]
    matched: bool
    """False when a draft was contradicted: everything drafted after it is void."""
    discarded: int
    agreed: tuple[bool, ...] = ()
    """For each new token, whether the server had it as a draft of ours."""
    judged: tuple[Judged, ...] = ()
    """The drafts of committed positions, oldest first: all right but maybe the last."""


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

    def append(self, position: int, draft: DraftToken) -> bool:
        """Take a draft if it continues the chain; False (and no change) if it does not."""
        if position != self.frontier + len(self._drafted):
            return False
        self._drafted.append(draft)
        return True

    def agrees_with_committed(self, position: int, token: int) -> bool:
        """Whether a draft of an already committed position was right."""
        return self.tokens[position] == token

    def take_unsent(self, turn: int, *, verify: bool) -> Draft | None:
        """The frame that brings the server up to date.

        When the server has everything, there is no frame, or with `verify` the last node
        once more: a node sent twice changes nothing, but the flag is heard.
        """
        unsent = [self._drafted[i].token_id for i in range(self._num_sent, len(self._drafted))]
        if not unsent:
            return self._repeat_last(turn) if verify and self._num_sent else None
        frame = Draft(
            turn=turn,
            first=self._next_id,
            base=self.frontier + self._num_sent,
            anchor=self._next_id - 1 if self._num_sent else 0,
            tokens=unsent,
            verify=verify,
        )
        self._next_id += len(unsent)
        self._num_sent = len(self._drafted)
        return frame

    def _repeat_last(self, turn: int) -> Draft:
        last = self._next_id - 1
        return Draft(
            turn=turn,
            first=last,
            base=self.frontier + self._num_sent - 1,
            anchor=last - 1 if self._num_sent > 1 else 0,
            tokens=[self._drafted[self._num_sent - 1].token_id],
        )

    def commit(self, base: int, tokens: Sequence[int]) -> Reconciled:
        """Lay a `Commit` beside the drafts. A replayed part is recognised and skipped.

        Raises `CloudMisbehaved` for a gap, a contradiction of what was committed
        before, or ids outside the vocabulary.
        """
        new = self._new_part(base, tokens)
        matched, discarded = True, 0
        agreed = []
        judged = []
        for token in new:
            self.tokens.append(token)
            agreed.append(self._num_sent > 0 and self._drafted[0].token_id == token)
            if not self._drafted:
                continue
            right = self._drafted[0].token_id == token
            judged.append(Judged(self._drafted[0].probability, right))
            if right:
                self._drafted.popleft()
                self._num_sent = max(0, self._num_sent - 1)
            else:
                discarded += self.void()
                matched = False
        return Reconciled(tuple(new), matched, discarded, tuple(agreed), tuple(judged))

    def void(self) -> int:
        """Drop all drafts; returns how many there were."""
        num = len(self._drafted)
        self._drafted.clear()
        self._num_sent = 0
        return num

    def restart(self) -> None:
        """A new turn on the server (after a lost connection): nothing has been sent to it."""
        self._num_sent = 0
        self._next_id = 1

    def _new_part(self, base: int, tokens: Sequence[int]) -> Sequence[int]:
        if base > self.frontier:
            raise CloudMisbehaved(f"the server skipped from position {self.frontier} to {base}")
        if any(not 0 <= token < self.vocab_size for token in tokens):
            raise CloudMisbehaved("the server committed a token id outside its vocabulary")
        overlap = self.frontier - base
        if list(tokens[:overlap]) != self.tokens[base : base + min(overlap, len(tokens))]:
            raise CloudMisbehaved("the server contradicted tokens it had committed")
        return tokens[overlap:]


def logprobs_of(commit: Commit, num_new: int) -> tuple[TokenLogprobs, ...] | None:
    """Those of the last `num_new` tokens of `commit`, the ones it was not a replay of.

    Raises `CloudMisbehaved` if there are some, but not one for each token.
    """
    if commit.logprobs is None:
        return None
    if len(commit.logprobs) != len(commit.tokens):
        raise CloudMisbehaved("the server sent log-probabilities that do not go with its tokens")
    return tuple(commit.logprobs[len(commit.logprobs) - num_new :])
