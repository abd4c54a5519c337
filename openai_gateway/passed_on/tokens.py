"""`/tokenize`, `/detokenize`, `/apply-template`, `/props`: as vLLM and llama-server have them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from edge_agent.api import Generator
from edge_agent.errors import CloudMisbehaved
from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.http import json_response, read_body
from openai_gateway.local import TargetTextCache, decode_body
from openai_gateway.routing import Fleet, normalise, sampling_used
from openai_gateway.target import post

__all__ = ["tokens_router"]

_CHAT: Final = "/v1/chat/completions"
_TEMPLATED: Final = (
    *("messages", "tools", "chat_template", "chat_template_kwargs", "add_generation_prompt"),
    *("continue_final_message", "add_special_tokens", "mm_processor_kwargs", "return_token_strs"),
)
"""What vLLM's tokenizer endpoint takes of a chat."""


class _Tokens:
    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._texts = TargetTextCache()

    async def tokenize(self, body: Json) -> Json:
        """vLLM's answer to `prompt` or `messages`, llama-server's to `content`."""
        if "content" not in body:
            return await post(self._generator, "/tokenize", _asked(body))
        asked = {"prompt": body["content"], "add_special_tokens": bool(body.get("add_special"))}
        tokens = await self._found("/tokenize", asked, "tokens")
        if not body.get("with_pieces"):
            return {"tokens": tokens}
        text = await self._texts.load(await self._generator.tokenizer())
        return {"tokens": [{"id": token, "piece": text.text_of([token])} for token in tokens]}

    async def detokenize(self, tokens: object) -> Json:
        """The text under both servers' names."""
        text = await self._found("/detokenize", {"tokens": tokens}, "prompt")
        return {"prompt": text, "content": text}

    async def apply_template(self, body: Json) -> Json:
        """The prompt that the target makes of a chat."""
        if "messages" not in body:
            raise InvalidRequest("Missing required parameter: 'messages'.", param="messages")
        tokens = await self._found("/tokenize", _asked(body), "tokens")
        return {"prompt": (await self.detokenize(tokens))["prompt"]}

    async def _found(self, path: str, asked: Json, name: str) -> Any:
        """The field `name` of the server's answer. Raises `CloudMisbehaved` if it has none."""
        answer = await post(self._generator, path, asked)
        if name not in answer:
            raise CloudMisbehaved(f"the server's answer to {path} has no {name!r}")
        return answer[name]

    async def props(self) -> Json:
        """What llama-server's clients look for before they ask."""
        target = await self._generator.target()
        bundle = await self._generator.tokenizer()
        return {
            "default_generation_settings": {
                "n_ctx": target.max_model_len,
                "params": {**sampling_used({}, target), "n_predict": -1, "seed": -1},
            },
            "total_slots": 1,
            "model_alias": target.model,
            "model_path": target.model,
            "chat_template": bundle.chat_template or "",
            "bos_token": bundle.special_tokens.get("bos_token", ""),
            "eos_token": bundle.special_tokens.get("eos_token", ""),
            "modalities": {"vision": False, "audio": False},
            "build_info": f"pipesd {version('pipesd')}",
        }


def _asked(body: Mapping[str, Any]) -> Json:
    """The fields of a chat or prompt that decide its tokens, as vLLM's tokenizer endpoint takes them."""
    if "messages" not in body:
        return {name: value for name, value in body.items() if name != "model"}
    chat = normalise(body, _CHAT)
    asked: Json = {name: chat[name] for name in _TEMPLATED if name in chat}
    if (effort := chat.get("reasoning_effort")) is not None:
        variables = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        own = asked.get("chat_template_kwargs", {})
        if not isinstance(own, dict):
            raise InvalidRequest("'chat_template_kwargs' should be an object.", param="chat_template_kwargs")
        asked["chat_template_kwargs"] = {**variables, **own}
    return asked


def tokens_router(fleet: Fleet) -> APIRouter:
    """The four routes, each asked of the target that `model` names."""
    router = APIRouter()
    by_label = {member.label: _Tokens(member.generator) for member in fleet.members}

    async def asked(request: Request) -> tuple[_Tokens, Json]:
        body = decode_body(await read_body(request))
        return by_label[(await fleet.pick(body.get("model"))).label], body

    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        tokens, body = await asked(request)
        return json_response(await tokens.tokenize(body))

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        tokens, body = await asked(request)
        return json_response(await tokens.detokenize(body.get("tokens")))

    @router.post("/apply-template")
    async def apply_template(request: Request) -> Response:
        tokens, body = await asked(request)
        return json_response(await tokens.apply_template(body))

    @router.head("/props", include_in_schema=False)
    @router.get("/props")
    async def props(model: str | None = None) -> Response:
        tokens = by_label[(await fleet.pick(model)).label]
        names = [listed.name for listed in await fleet.listed()]
        return json_response({**await tokens.props(), "models": names})

    return router
