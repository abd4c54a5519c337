"""Paths as clients put them together: slashes too many, base URLs with a `/v1` too many or too few."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PathRepair", "repaired"]

_SLASHES: Final = re.compile(r"/{2,}")
_NESTED: Final = re.compile(r"^/(?:v1|api)(?=/(?:v1|api)(?:/|$))")
"""A base URL that has the API's root already, of the same API or of the other one."""
_BARE: Final = frozenset({"/chat/completions", "/embeddings", "/messages", "/models", "/responses"})
"""Paths that llama-server answers without `/v1`, too."""


def repaired(path: str) -> str:
    """The path that `path` means here."""
    path = _SLASHES.sub("/", path).rstrip("/ \t") or "/"
    while (nested := _NESTED.match(path)) is not None:
        path = path[nested.end() :]
    return f"/v1{path}" if path in _BARE or path.startswith("/messages/") else path


class PathRepair:
    """ASGI middleware: requests come to `app` under repaired paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # In place: what stands around this learns the route from the same scope.
            scope["path"] = repaired(scope["path"])
            scope["raw_path"] = scope["path"].encode()
        await self._app(scope, receive, send)
