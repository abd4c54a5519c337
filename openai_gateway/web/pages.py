"""Serving the web page: files of this package, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter, Request, Response

__all__ = ["web_router"]

READ_METHODS: Final = ["GET", "HEAD"]
PLAIN: Final = "Ollama is running"
"""What Ollama's clients look for. Others of local servers take any answer."""
_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
_FOLDERS: Final = ("js", "vendor", "languages")

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Only the sanitiser may make HTML of a string; everything else is text.
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # The files change with the gateway, and they are small.
    "cache-control": "no-cache",
}


def assets() -> dict[str, str]:
    """The page's files and their types, by their paths below `/web`."""
    return dict(_served(files("openai_gateway.web"), ""))


def _served(folder: Traversable, path: str) -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir() and each.name in _FOLDERS:
            yield from _served(each, f"{path}{each.name}/")
        for suffix, media_type in _TYPES.items():
            if each.name.endswith(suffix):
                yield path + each.name, media_type


def web_router() -> APIRouter:
    """`/` is the page for a browser and a line of text for anyone else; its files are under /web."""
    router = APIRouter()

    @router.api_route("/", methods=READ_METHODS)
    async def root(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return Response(PLAIN, headers={"vary": "accept"}, media_type="text/plain")
        return Response(_read("index.html"), headers={**HEADERS, "vary": "accept"}, media_type="text/html")

    def add(name: str, media_type: str) -> None:
        @router.api_route(f"/web/{name}", methods=READ_METHODS, name=name)
        async def asset() -> Response:
            return Response(_read(name), headers=HEADERS, media_type=media_type)

    for name, media_type in assets().items():
        add(name, media_type)
    return router


def _read(name: str) -> bytes:
    return files("openai_gateway.web").joinpath(*name.split("/")).read_bytes()
