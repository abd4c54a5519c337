"""What the target answers: requests for the server's own API, drafted for or passed on, and its answers."""

from openai_gateway.target.answers import TOO_OLD, TargetAnswers
from openai_gateway.target.late import LateGenerator
from openai_gateway.target.plain import Forwarder, post

__all__ = [
    "TOO_OLD",
    "Forwarder",
    "LateGenerator",
    "TargetAnswers",
    "post",
]
