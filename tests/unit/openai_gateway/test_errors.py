from __future__ import annotations

from typing import Any

import msgspec
import pytest

import openai_gateway.errors as errors
from edge_agent.errors import (
    CloudMisbehaved,
    CloudRefused,
    CloudUnreachable,
    ConfigError,
    EdgeError,
    ModelError,
    PairingError,
)
from openai_gateway.errors import ApiError, error_in_stream, from_edge_error, refusal
from pipesd_vllm.wire import RefusalCode


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CloudUnreachable("no route"), 503, "cloud_unreachable"),
        (CloudMisbehaved("odd ids"), 502, "cloud_misbehaved"),
        (PairingError("two vocabularies"), 500, "configuration_error"),
        (ConfigError("no url"), 500, "configuration_error"),
        (ModelError("no file"), 500, "configuration_error"),
        (CloudRefused(RefusalCode.PROMPT_TOO_LONG, "9 of 8"), 400, "context_length_exceeded"),
        (CloudRefused(RefusalCode.EMPTY_PROMPT, "empty"), 400, "empty_prompt"),
        (CloudRefused(RefusalCode.BAD_SAMPLING, "top_p"), 400, "bad_sampling"),
        (CloudRefused(RefusalCode.OVERLOADED, "busy"), 429, "overloaded"),
        (CloudRefused(RefusalCode.ENGINE_ERROR, "engine"), 502, "engine_error"),
        (CloudRefused("from_the_future", "what"), 400, "from_the_future"),
    ],
)
def test_edge_errors(error: EdgeError, status: int, code: str) -> None:
    """Each failure of the edge agent has its status and code, and keeps its advice as message."""
    answer = from_edge_error(error)
    assert (answer.status, answer.code, answer.message) == (status, code, str(error))


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_has_an_answer(code: RefusalCode) -> None:
    """No refusal of the wire contract falls through as an internal error."""
    assert from_edge_error(CloudRefused(code, "m")).status in (400, 429, 502)


@pytest.mark.parametrize("error", [CloudUnreachable("x"), CloudRefused(RefusalCode.OVERLOADED, "x")])
def test_passing_faults_say_when_to_retry(error: EdgeError) -> None:
    """Faults that pass by themselves carry a Retry-After of some seconds."""
    assert int(from_edge_error(error).headers["retry-after"]) in range(1, 60)


def test_body_shape() -> None:
    """The body has OpenAI's four fields, null where unknown."""
    assert errors.InvalidRequest("m", param="p").body() == {
        "error": {"message": "m", "type": "invalid_request_error", "param": "p", "code": None}
    }


def test_internal_error_tells_nothing() -> None:
    """The text of an unexpected exception stays in the log."""
    assert errors.internal_error().status == 500
    assert "log" in errors.internal_error().message


REFUSAL = "The prompt_embeds and logit_bias parameters are not supported together."


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
    assert refused(400, body(message=REFUSAL, param=None), *causes).param == param


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
