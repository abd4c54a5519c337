from __future__ import annotations

import re
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from openai_gateway.web.pages import ASSETS, web_router


def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(web_router())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g")


async def test_browsers_get_a_page_and_curl_a_line() -> None:
    """`/` is HTML for who asks for it, plain text for anyone else, and caches are told the difference."""
    async with client() as http:
        page = await http.get("/", headers={"accept": "text/html,*/*"})
        text = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert text.headers["content-type"].startswith("text/plain")
    assert "/v1" in text.text
    assert page.headers["vary"] == text.headers["vary"] == "accept"


@pytest.mark.parametrize("name", ASSETS)
async def test_every_file_is_served_with_its_type(name: str) -> None:
    """The page's files come with the type that browsers insist on."""
    async with client() as http:
        answer = await http.get(f"/web/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(ASSETS[name])


async def test_the_policy_allows_nothing_from_elsewhere() -> None:
    """Scripts and styles only from here, none inline; no file names another host."""
    async with client() as http:
        page = await http.get("/", headers={"accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("index.html", *ASSETS):
        text = files("openai_gateway.web").joinpath(name).read_text(encoding="utf-8")
        urls = set(re.findall(r"https?://[^\s\"')]+", text))
        assert urls <= {"http://www.w3.org/2000/svg"}
