"""Routes whose errors have a protocol's own shape."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from openai_gateway.errors import ApiError, translate

__all__ = ["RenderError", "route_class"]

RenderError = Callable[[ApiError], Response]
"""An error as the protocol answers it."""


def route_class(render: RenderError) -> type[APIRoute]:
    """For `APIRouter(route_class=...)`: what a route or its dependencies raise, `render` renders."""

    class TranslatedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await handler(request)
                except (ClientDisconnect, HTTPException):
                    raise
                except Exception as error:
                    return render(translate(error))

            return handle

    return TranslatedRoute
