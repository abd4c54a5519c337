"""The SDKs' request types beside ours, in both directions: a new field fails here instead of vanishing."""

from __future__ import annotations

from typing import Any, get_type_hints

import ollama._types as ollama
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from openai_gateway.routing.parameters import CHANGES_NOTHING, PARAMETERS, RENAMED, VLLM_FIELDS
from openai_gateway.translation.anthropic import schema as anthropic
from openai_gateway.translation.ollama import request as ollama_request
from openai_gateway.translation.ollama import schema as ollama_schema
from openai_gateway.translation.responses import schema as responses

STREAM = {"stream"}
"""In the types of one of the two overloads each."""
OWN = {
    "messages": {"output_format", "stream"},  # of a beta; of the overloads
}


def fields(params: Any) -> set[str]:
    return set(get_type_hints(params))


@pytest.mark.parametrize(
    ("params", "path"),
    [
        (chat_create_params.CompletionCreateParamsBase, "/v1/chat/completions"),
        (completion_create_params.CompletionCreateParamsBase, "/v1/completions"),
    ],
)
def test_openais_parameters_are_decided_upon(params: Any, path: Any) -> None:
    """vLLM has each, or a table says what becomes of it."""
    known = VLLM_FIELDS[path] | PARAMETERS.keys() | RENAMED.keys() | CHANGES_NOTHING
    assert fields(params) <= known


def test_anthropics_parameters_are_decided_upon() -> None:
    """Those of a message and of a count; and ours are theirs."""
    theirs = fields(message_create_params.MessageCreateParamsBase)
    known = anthropic.MessagesRequest.model_fields.keys() | anthropic.IGNORED | anthropic.NEUTRAL.keys()
    assert theirs <= known | {"top_k"}
    ours = anthropic.MessagesRequest.model_fields.keys() - OWN["messages"]
    assert ours - theirs <= {"temperature", "top_k", "top_p"}  # gone from the newest models
    assert fields(message_count_tokens_params.MessageCountTokensParams) <= known


def test_parameters_of_responses_are_decided_upon() -> None:
    """Theirs are known here, and ours are theirs."""
    theirs = fields(response_create_params.ResponseCreateParamsBase)
    known = responses.ResponsesRequest.model_fields.keys() | responses.IGNORED | responses.NEUTRAL.keys()
    assert theirs <= known
    assert responses.ResponsesRequest.model_fields.keys() - STREAM <= theirs


def test_ollamas_parameters_are_decided_upon() -> None:
    """Of chats, prompts and messages; options are read in one place with all bodies."""
    elsewhere = ollama_schema.IGNORED | ollama_request.NEUTRAL.keys()
    for theirs, ours in (
        (ollama.ChatRequest, ollama_schema.ChatRequest),
        (ollama.GenerateRequest, ollama_schema.GenerateRequest),
    ):
        assert theirs.model_fields.keys() <= ours.model_fields.keys() | elsewhere
        assert ours.model_fields.keys() <= theirs.model_fields.keys()
    own_ids = {"tool_call_id"}  # of clients that speak both APIs
    assert ollama_schema.Message.model_fields.keys() - own_ids == ollama.Message.model_fields.keys()
