"""SessionMode and policy per request."""

import pytest

from edge_agent.api import SessionMode
from openai_gateway.chat_service import SessionOptions, session_options
from openai_gateway.errors import InvalidRequest


def test_headers_choose_mode_and_policy() -> None:
    """Both headers are read; without them the agent's settings stand."""
    chosen = session_options({"x-pipesd-mode": "latency", "x-pipesd-policy": "vanilla"})
    assert chosen == SessionOptions(SessionMode.LATENCY, "vanilla")
    assert session_options({}) == SessionOptions()
    assert session_options({"x-pipesd-drafts": "1"}).drafts


@pytest.mark.parametrize("header", ["x-pipesd-mode", "x-pipesd-policy", "x-pipesd-drafts"])
def test_unknown_choices_are_refused_by_name(header: str) -> None:
    """A typo is a 400 that names the header and the choices."""
    with pytest.raises(InvalidRequest, match=f"{header}.*choose one of"):
        session_options({header: "fastest"})
