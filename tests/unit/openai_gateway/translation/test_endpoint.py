from __future__ import annotations

import httpx
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from edge_agent.errors import CloudUnreachable
from openai_gateway.errors import ApiError, InvalidRequest
from openai_gateway.http import key_check
from openai_gateway.translation.endpoint import route_class


def render(error: ApiError) -> Response:
    return Response(f"mine: {error.message}", error.status)


def app() -> FastAPI:
    application = FastAPI()
    router = APIRouter(route_class=route_class(render))

    @router.get("/{what}")
    async def fail(what: str, request: Request) -> Response:
        raise {"bad": InvalidRequest("no"), "gone": CloudUnreachable("gone"), "bug": ValueError("x")}[what]

    application.include_router(router, dependencies=[Depends(key_check("k"))])
    return application


async def test_errors_of_routes_and_dependencies_are_rendered() -> None:
    """Bad input, a missing key, a lost cloud and a fault of ours all come in the protocol's shape."""
    headers = {"x-api-key": "k"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://g") as client:
        answers = [await client.get(path, headers=headers) for path in ("/bad", "/gone", "/bug")]
        answers.append(await client.get("/bad"))
    assert [answer.status_code for answer in answers] == [400, 503, 500, 401]
    assert all(answer.text.startswith("mine: ") for answer in answers)
