from __future__ import annotations

import pytest

from edge_agent.api import FinishReason
from openai_gateway.local import model_card
from openai_gateway.local.shapes import (
    ChatShape,
    CompletionShape,
    Envelope,
    Shape,
)


@pytest.mark.parametrize("shape", [ChatShape(), CompletionShape()])
def test_choices_have_openais_fields(shape: Shape) -> None:
    """Every choice has an index and a finish reason, null until the last."""
    choices = [shape.text("a"), shape.finish(FinishReason.LENGTH), shape.whole("a", FinishReason.STOP)]
    assert [choice["finish_reason"] for choice in choices] == [None, "length", "stop"]
    assert {choice["index"] for choice in choices} == {0}


def test_envelope_and_card() -> None:
    """Bodies carry id, object, creation time and model."""
    body = Envelope("id-1", "org/target", 7).wrap("chat.completion", [])
    assert body == {
        "id": "id-1",
        "object": "chat.completion",
        "created": 7,
        "model": "org/target",
        "choices": [],
    }
    assert model_card("org/target", 128, 7)["max_model_len"] == 128
