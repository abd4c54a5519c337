from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_agent.errors import CloudRefused
from openai_gateway.errors import ApiError, error_in_stream, refusal

SPECULATION = "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding."


def body(**error: Any) -> bytes:
    return msgspec.json.encode({"error": error})


def refused(status: int, data: bytes, *causes: str) -> ApiError:
    error = refusal(status, data, causes)
    assert isinstance(error, ApiError)
    return error


def test_a_refusal_keeps_its_words() -> None:
    """A 4xx of the server is the client's 4xx, with the server's message, type and parameter."""
    error = refused(400, body(message="n is too large", type="BadRequestError", param="n", code=400), "tools")
    assert (error.status, error.message, error.kind, error.param, error.code) == (
        400,
        "n is too large",
        "BadRequestError",
        "n",
        None,
    )


@pytest.mark.parametrize(
    ("causes", "param"), [(("n", "logit_bias"), "logit_bias"), (("n", "tools"), "n"), ((), None)]
)
def test_the_parameter_is_named(causes: tuple[str, ...], param: str | None) -> None:
    """Where the server names no parameter, the one that its text is about is named."""
    assert refused(400, body(message=SPECULATION, param=None), *causes).param == param


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"detail": "x"}', b'{"error": "x"}'])
def test_bodies_that_are_no_errors(data: bytes) -> None:
    """Whatever the server or a proxy answers, the client gets an error with a message."""
    assert "HTTP 404" in refused(404, data).message


def test_statuses() -> None:
    """A fault of the server is a 502, a rate limit says when to come back, a wrong key is the agent's."""
    assert refused(500, body(message="boom")).status == 502
    assert refused(429, body(message="slow down")).headers["retry-after"]
    assert isinstance(refusal(401, b"", ()), CloudRefused)


@pytest.mark.parametrize(
    ("error", "status"), [({"message": "x", "code": 400}, 400), ({}, 502), ("text", 502)]
)
def test_errors_in_a_stream(error: object, status: int) -> None:
    """An error event of the server carries its status in the code."""
    translated = error_in_stream({"error": error}, ())
    assert isinstance(translated, ApiError)
    assert translated.status == status
