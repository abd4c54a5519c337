from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from openai_gateway.web.pages import assets, web_router

WEB = files("openai_gateway.web")
LIBRARIES = ("vendor/",)
MOST_BYTES = 300_000


def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(web_router())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g")


def read(name: str) -> bytes:
    return WEB.joinpath(*name.split("/")).read_bytes()


async def test_browsers_get_a_page_and_curl_a_line() -> None:
    """`/` is HTML for who asks for it, plain text for anyone else, and caches are told the difference."""
    async with client() as http:
        page = await http.get("/", headers={"accept": "text/html,*/*"})
        text = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert text.headers["content-type"].startswith("text/plain")
    assert text.text == "Ollama is running"  # what its clients look for
    assert page.headers["vary"] == text.headers["vary"] == "accept"


@pytest.mark.parametrize("name", assets())
async def test_every_file_is_served_with_its_type(name: str) -> None:
    """The page's files come with the type that browsers insist on."""
    async with client() as http:
        answer = await http.get(f"/web/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(assets()[name])


async def test_everything_that_is_loaded_is_served() -> None:
    """Each file that the page or a module names is there, and nothing else of the package is."""
    named = {
        name.removeprefix("/web/")
        for name in re.findall(r'(?:src|href)="(/web/[^"]+)"', read("index.html").decode())
    }
    for name in [name for name in assets() if name.startswith("js/")]:
        for path in re.findall(r'(?:from|import) "\.\.?/([^"]+)"', read(name).decode()):
            named.add(path if path.startswith("vendor/") else f"js/{path}")
    assert named <= assets().keys()
    async with client() as http:
        for path in ("pages.py", "package.json", "vendor/manifest.json", "../app.py", "js/../pages.py"):
            assert (await http.get(f"/web/{path}")).status_code == 404


async def test_the_policy_allows_nothing_from_elsewhere() -> None:
    """Scripts and styles only from here, none inline, no string made markup but by the sanitiser."""
    async with client() as http:
        page = await http.get("/", headers={"accept": "text/html"})
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "require-trusted-types-for 'script'", "trusted-types dompurify"):
        assert part in policy
    assert "unsafe" not in policy
    assert "blob:" not in policy
    for name in ("index.html", *assets()):
        if not name.startswith(LIBRARIES):
            text = read(name).decode()
            assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_libraries_are_as_they_were_published() -> None:
    """Each file of a library is pinned by version and hash and has its licence (`tools/vendor_web.py`)."""
    manifest = json.loads(read("vendor/manifest.json"))
    there = {name.removeprefix("vendor/") for name in assets() if name.startswith("vendor/")}
    wanted = {name for package in manifest["packages"] for name in package["files"]}
    assert there == wanted == manifest["sha256"].keys()
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256(read(f"vendor/{name}")).hexdigest() == digest
    licences = read("vendor/LICENSES.txt").decode()
    for package in manifest["packages"]:
        assert f"{package['name']} {package['version']} ({package['licence']})" in licences


def test_size() -> None:
    """The whole page, libraries included, stays small."""
    sizes = {name: len(read(name)) for name in ("index.html", *assets())}
    assert sum(sizes.values()) < MOST_BYTES, sizes
