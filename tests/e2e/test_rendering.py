"""Prompts made here against those that vLLM makes of the same messages: `/v1/chat/completions/render`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from edge_agent.api import TokenizerBundle
from edge_agent.verifier.http import CloudApi
from openai_gateway.local.schema import ChatRequest, parse_request
from openai_gateway.local.text.tokenizer import TargetText
from tests.conftest import Verifier

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Köln", "days": 2}'},
}
SYSTEM: Final = {"role": "system", "content": "Be brief."}
USER: Final = {"role": "user", "content": "Wie ist das Wetter in Köln? 🧀"}
PARTS: Final = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
CONVERSATIONS: Final[dict[str, dict[str, Any]]] = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER, {"role": "assistant", "content": "Gut."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    "parts": {"messages": [SYSTEM, {"role": "user", "content": PARTS}]},
    "tools": {
        "messages": [
            SYSTEM,
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "grey"}'},
            {"role": "assistant", "content": "Grau.", "reasoning": "The sky is grey."},
            USER,
        ]
    },
    "variables": {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}},
    "effort": {"messages": [USER], "reasoning_effort": "low"},
}
AGENTS_TEMPLATE: Final = """
{%- for message in messages %}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>
{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
{%- for name, value in call.function.arguments | items %} {{ name }}={{ value }}{% endfor %}</tool_call>
{%- endfor %}{{ message.tool_call_id or '' }}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{{- reasoning_effort or '' }}
{%- endif %}"""
PARTS_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}[{{ part['text'] }}]{% endfor %}{% endif %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
TEMPLATES: Final = {
    "the model's": None,
    "agents'": (AGENTS_TEMPLATE, "string"),
    "parts": (PARTS_TEMPLATE, "openai"),
}
"""With the form in which vLLM gives them contents; given with the request, as `--trust-request-chat-template`
allows."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundle(
    verifier: Verifier, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TokenizerBundle]:
    folder: Path = tmp_path_factory.mktemp("tokenizers")
    api = CloudApi(verifier.base_url, verifier.api_key, timeout_s=60.0, cache_dir=folder)
    yield await api.tokenizer()
    await api.close()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("body", CONVERSATIONS.values(), ids=CONVERSATIONS)
async def test_the_same_prompt(
    verifier: Verifier, bundle: TokenizerBundle, body: dict[str, Any], template: tuple[str, str] | None
) -> None:
    """The same messages are the same token ids, whichever side renders them."""
    if template is not None:
        bundle = replace(bundle, chat_template=template[0], content_format=template[1])
    ours = TargetText(bundle)
    mine = await ours.encode_chat(parse_request(ChatRequest, body))
    async with httpx.AsyncClient(base_url=verifier.base_url, trust_env=False, timeout=60.0) as client:
        asked = {"model": verifier.model, **body, **({"chat_template": template[0]} if template else {})}
        answer = await client.post("/v1/chat/completions/render", json=asked, headers=verifier.headers)
    assert answer.status_code == 200, answer.text
    assert list(mine) == answer.json()["token_ids"]
