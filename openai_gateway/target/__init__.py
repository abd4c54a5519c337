"""The route `cloud`: requests passed on to the server's own API, answers passed back."""

from openai_gateway.target.answers import CloudAnswers

__all__ = [
    "CloudAnswers",
]
