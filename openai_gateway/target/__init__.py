"""What the target answers: requests for the server's own API, drafted for or passed on, and its answers."""

from openai_gateway.target.answers import TOO_OLD, TargetAnswers

__all__ = [
    "TOO_OLD",
    "TargetAnswers",
]
