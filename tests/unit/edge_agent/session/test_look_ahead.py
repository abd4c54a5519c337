"""How far a session drafts ahead; the sessions of `test_session.py` go by it."""

from edge_agent.control.policies.base import ChainView
from edge_agent.sampling.picker import DraftToken
from edge_agent.session.chain import DraftChain
from edge_agent.session.session import LookAhead

PROMPT = [1, 2, 3]


class Session:
    """A chain with a look-ahead of at most `ahead` drafts, up to ten tokens in all."""

    def __init__(self, ahead: int = 4) -> None:
        self.ahead = ahead
        self.chain = DraftChain(PROMPT, vocab_size=100)
        self.look = LookAhead(self.chain, 10, lambda view: self.ahead)

    def draft(self, num_drafts: int) -> None:
        for _ in range(num_drafts):
            self.chain.append(self.chain.frontier + self.chain.num_drafted, DraftToken(7, 0.9))

    def verify(self) -> None:
        self.chain.take_unsent(1, verify=True)
        self.look.asked_to_verify()


def test_the_limit_is_the_policys_up_to_the_end() -> None:
    """No draft is made past the last token that may be generated."""
    session = Session()
    assert session.look.new_limit() == 7
    session.ahead = 40
    assert session.look.new_limit() == 10


def test_waiting_ends_with_the_commit_of_what_was_asked_for() -> None:
    """Or when it will not be answered."""
    session = Session()
    session.draft(3)
    session.verify()
    assert session.look.view() == ChainView(3, 0, awaiting_commit=True)
    session.chain.commit(3, [7, 7])
    assert session.look.awaits_commit
    session.chain.commit(5, [7])
    assert not session.look.awaits_commit
    session.draft(1)
    session.verify()
    session.look.give_up_waiting()
    assert not session.look.awaits_commit


def test_a_stall_is_noticed() -> None:
    """The worker drafted all it was told to and no answer is due; more may make sense by now, or not."""
    session = Session(ahead=2)
    session.look.new_limit()
    session.draft(1)
    assert not session.look.is_stalled
    session.draft(1)
    assert session.look.is_stalled
    assert not session.look.may_go_on
    session.ahead = 3
    assert session.look.may_go_on
    session.verify()
    assert not session.look.is_stalled
