"""schemathesis over the gateway's own OpenAPI document, against an app on fakes."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tokenizers import Tokenizer

from edge_agent.api import TargetInfo
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator, Script, fake_tokenizer_bundle
from openai_gateway.app import create_app
from openai_gateway.http.access import AccessPolicy

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
"""All that judge answers but these: `positive_data_acceptance`, because whether a model is served, a prompt
fits and a role may follow another is more than a schema says; `negative_data_rejection`, because values in
other servers' words are taken, and vLLM judges what the target answers; `unsupported_method`, because CORS
answers OPTIONS."""

WHOLE = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [], "usage": None}


def gateway() -> Any:
    bundle = fake_tokenizer_bundle(["hello world"])
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    target = TargetInfo("org/target", 256, tokenizer.get_vocab_size())
    generator = FakeGenerator(target, bundle, Script(tuple(tokenizer.encode("hello").ids)))

    def cloud(path: str, body: Any) -> FakeForwardedAnswer:
        if path == "/tokenize":
            return FakeForwardedAnswer(200, (b'{"count": 3}',))
        if body.get("stream"):
            return FakeForwardedAnswer(200, (b"data: [DONE]\n\n",))
        return FakeForwardedAnswer(200, (msgspec.json.encode(WHOLE),))

    generator.cloud = cloud
    hosts = frozenset({"testserver"})  # what schemathesis asks for
    return create_app(generator, access=AccessPolicy(hosts))


app = gateway()
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


def test_the_document_is_one() -> None:
    """It is valid OpenAPI and describes the bodies that are read by hand."""
    document = app.openapi()
    OpenAPI.model_validate(document)
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert "messages" in document["components"]["schemas"]["ChatRequest"]["required"]


@schema.parametrize()
@settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_every_operation(case: schemathesis.Case) -> None:
    """Whatever is sent, valid or not: no server error, and the answer is what the document says."""
    case.call_and_validate(checks=list(CHECKS))
