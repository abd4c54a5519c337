from __future__ import annotations

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
from openai_gateway.errors import from_edge_error
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


def test_public_names() -> None:
    """The package's errors are these."""
    assert {name for name in errors.__all__ if not name.isupper()} == {
        "ApiError",
        "BodyTooLarge",
        "ContextLengthExceeded",
        "HostNotAllowed",
        "InvalidApiKey",
        "InvalidRequest",
        "ModelNotFound",
        "OriginNotAllowed",
        "UnsupportedParameter",
        "from_edge_error",
        "from_status",
        "internal_error",
    }
