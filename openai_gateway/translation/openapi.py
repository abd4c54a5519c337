"""The gateway's OpenAPI document, at `/openapi.json`, with the bodies that FastAPI does not read itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from openai_gateway.chat_service import Json
from openai_gateway.local import ChatRequest, CompletionRequest, GenerationFields
from openai_gateway.translation.anthropic import schema as anthropic
from openai_gateway.translation.ollama import schema as ollama
from openai_gateway.translation.responses import schema as responses

__all__ = ["DocumentedApp"]

_BODIES: Final[Mapping[str, type[BaseModel]]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": responses.ResponsesRequest,
    "/v1/messages": anthropic.MessagesRequest,
    "/v1/messages/count_tokens": anthropic.CountRequest,
    "/api/chat": ollama.ChatRequest,
    "/api/generate": ollama.GenerateRequest,
    "/api/show": ollama.Named,
}
_STREAMS: Final[Mapping[str, str]] = {"Ollama": "application/x-ndjson"}
_REF: Final = "#/components/schemas/{model}"
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR: Final[Json] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
_OLLAMA_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_GENERATED: Final[Json] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage", "pipesd", "timings"],
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": ["object", "null"]},
        "pipesd": {"type": "object", "required": ["route", "reason", "verified"]},
        "timings": {"type": "object"},
    },
}


class DocumentedApp(FastAPI):
    """An application whose document describes bodies that it reads itself."""

    def openapi(self) -> Json:
        """The document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> Json:
    document: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    # A body is checked here, so the framework's own answer to a bad one never comes.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas |= {"Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR, "OllamaError": _OLLAMA_ERROR}
    schemas |= {"Answer": _GENERATED, "TranslatedAnswer": {"type": "object"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            error = _protocol(path) + "Error"
            operation["responses"]["default"] = _response(error, "Refused or failed")
        if (model := _BODIES.get(path)) is not None:
            _describe_body(operations["post"], path, model, schemas)
    return document


def _describe_body(operation: Json, path: str, model: type[BaseModel], schemas: Json) -> None:
    # Protocols use the same names for different things.
    prefix = "" if issubclass(model, GenerationFields) else _package(model).capitalize()
    ref = _REF.format(model=prefix + "{model}")
    schema = model.model_json_schema(ref_template=ref)
    schemas |= {prefix + name: inner for name, inner in schema.pop("$defs", {}).items()}
    schemas[prefix + model.__name__] = schema
    content = {"application/json": {"schema": {"$ref": ref.format(model=model.__name__)}}}
    operation["requestBody"] = {"required": True, "content": content}
    name = "TranslatedAnswer" if prefix else "Answer"
    answer = _response(name, "The answer; with `stream` its pieces as they come")
    stream = _STREAMS.get(_protocol(path), "text/event-stream")
    answer["content"][stream] = {"schema": {}}
    operation["responses"]["200"] = answer


def _package(model: type[BaseModel]) -> str:
    return model.__module__.split(".")[-2]


def _protocol(path: str) -> str:
    """The protocol whose error shape `path` has; empty for OpenAI's."""
    if path.startswith("/api/"):
        return "Ollama"
    return "Anthropic" if path.startswith("/v1/messages") else ""


def _response(model: str, description: str) -> Json:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}
    return {"description": description, "content": content}
