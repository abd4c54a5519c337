"""The draft model's own answers: request schemas, prompts, text, OpenAI's bodies."""

from openai_gateway.local.answers import Continuation, GatewayTimings, LocalAnswers
from openai_gateway.local.chunks import extensions, pipesd_stats
from openai_gateway.local.endpoints import CHAT, COMPLETIONS, Endpoint, RequestT
from openai_gateway.local.pump import Pump
from openai_gateway.local.schema import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Fields,
    GenerationFields,
    decode_body,
    parse_request,
)
from openai_gateway.local.shapes import model_card
from openai_gateway.local.text.reasoning import both_names
from openai_gateway.local.text.tokenizer import TargetText, TargetTextCache

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "Continuation",
    "Endpoint",
    "Fields",
    "GatewayTimings",
    "GenerationFields",
    "LocalAnswers",
    "Pump",
    "RequestT",
    "TargetText",
    "TargetTextCache",
    "both_names",
    "decode_body",
    "extensions",
    "model_card",
    "parse_request",
    "pipesd_stats",
]
