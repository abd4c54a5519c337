"""Other chat APIs (Messages, Responses, Ollama's), translated to and from chat completions."""

from openai_gateway.translation.anthropic.counting import FleetPromptCounter
from openai_gateway.translation.anthropic.models import model_entry, model_list
from openai_gateway.translation.openapi import DocumentedApp
from openai_gateway.translation.protocols import catalog_of, protocols_router, render_error
from openai_gateway.translation.responses.endpoint import LEFT_OUT_HEADER

__all__ = [
    "LEFT_OUT_HEADER",
    "DocumentedApp",
    "FleetPromptCounter",
    "catalog_of",
    "model_entry",
    "model_list",
    "protocols_router",
    "render_error",
]
