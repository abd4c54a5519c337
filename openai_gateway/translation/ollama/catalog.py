"""The models as Ollama lists and describes them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError, ModelNotFound, shown

__all__ = ["API_VERSION", "Catalog", "Model"]

API_VERSION: Final = "0.40.0"
"""Release of Ollama whose API this follows; clients refuse to work with versions that are too old."""

ARCHITECTURE: Final = "pipesd"
"""Name under which clients find `context_length`; which one the target has, its server does not say."""


@dataclass(frozen=True, slots=True)
class Model:
    """`context_length` in tokens; `template` is the chat template's source, if there is one."""

    name: str
    context_length: int
    template: str | None = None
    has_tools: bool = True

    @property
    def capabilities(self) -> list[str]:
        """What its template can say; Ollama judges its own models the same way."""
        template = self.template or ""
        tools = ["tools"] if self.has_tools and "tools" in template else []
        thinking = ["thinking"] if "think" in template else []
        return ["completion", *tools, *thinking]


class Catalog:
    """Size and quantisation are not known here: the model runs on a server."""

    def __init__(
        self, models: Sequence[Model], since_s: float, listed_as: Callable[[str], Awaitable[str]]
    ) -> None:
        """`listed_as` gives the listed name for what a client calls a model; raises `ModelNotFound`."""
        self._models = models
        self._listed_as = listed_as
        self._since = datetime.fromtimestamp(since_s, UTC).isoformat().replace("+00:00", "Z")

    def tags(self) -> Json:
        """GET /api/tags."""
        return {"models": [self._entry(model) | {"modified_at": self._since} for model in self._models]}

    def running(self) -> Json:
        """GET /api/ps."""
        expires = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        models = [
            self._entry(model) | expires | {"context_length": model.context_length} for model in self._models
        ]
        return {"models": models}

    async def show(self, name: str | None) -> Json:
        """POST /api/show. Raises `ApiError` (404) in Ollama's words."""
        listed = {model.name: model for model in self._models}
        with suppress(ModelNotFound):
            if name and (found := listed.get(await self._listed_as(name))):
                return self._description(found)
        raise ApiError(404, f"model '{shown(str(name))}' not found", param="model", code="model_not_found")

    def _description(self, model: Model) -> Json:
        info = {
            "general.architecture": ARCHITECTURE,
            "general.basename": model.name,
            f"{ARCHITECTURE}.context_length": model.context_length,
        }
        return {
            "modelfile": f"FROM {model.name}\n",
            "parameters": "",
            "template": model.template or "",
            "details": _DETAILS,
            "model_info": info,
            "capabilities": model.capabilities,
            "modified_at": self._since,
        }

    def _entry(self, model: Model) -> Json:
        digest = hashlib.sha256(model.name.encode()).hexdigest()
        return {
            "name": model.name,
            "model": model.name,
            "size": 0,
            "digest": digest,
            "details": _DETAILS,
        }


_DETAILS: Final[Json] = {
    "parent_model": "",
    "format": "vllm",
    "family": ARCHITECTURE,
    "families": [ARCHITECTURE],
    "parameter_size": "",
    "quantization_level": "",
}
