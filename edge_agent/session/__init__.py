"""One collaborative answer: drafts out, commits in, and what to do when the verifier is lost."""

from edge_agent.session.control import ControlPlane, SessionControl
from edge_agent.session.exchange import ApiExchange, TokenExchange
from edge_agent.session.fallback import local_reason, retry_policy, unless_away, without_verifier
from edge_agent.session.local import generate_locally
from edge_agent.session.session import CollaborativeSession
from edge_agent.session.turn import ReceivedCommit

__all__ = [
    "ApiExchange",
    "CollaborativeSession",
    "ControlPlane",
    "ReceivedCommit",
    "SessionControl",
    "TokenExchange",
    "generate_locally",
    "local_reason",
    "retry_policy",
    "unless_away",
    "without_verifier",
]
