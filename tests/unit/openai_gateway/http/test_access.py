"""Which requests a gateway without a key answers, and where it may listen."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI, WebSocket
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from edge_agent.errors import ConfigError
from edge_agent.settings import EdgeSettings, load_settings
from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.cli.hosting import bind_gateway
from openai_gateway.http.access import LOOPBACK_ONLY, AccessPolicy, BrowserGuard, access_policy, risks
from openai_gateway.translation.protocols import render_error

MakeFake = Callable[..., FakeGenerator]
MakeClient = Callable[[FastAPI], httpx.AsyncClient]

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}]}
TEXT = '{"messages": [{"role": "user", "content": "hello"}]}'
OWN = "127.0.0.1:8650"
EVIL = "https://evil.example"
NAMED = AccessPolicy(
    hosts=frozenset({"gateway.lan", "192.168.1.5", "fd00::5"}),
    origins=frozenset({"https://chat.example", "http://chat.example:8080", "chrome-extension://*"}),
)
EVERY_PATH = [
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("GET", "/api/tags"),
    ("GET", "/api/version"),
    ("GET", "/metrics"),
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/web/app.js"),
    ("GET", "/nothing"),
]


def code(policy: AccessPolicy, headers: dict[str, str], method: str = "GET", path: str = "/health") -> Any:
    refusal = policy.refusal(method, path, Headers(headers))
    return refusal and refusal.code


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8650",
        "127.8.9.1",
        "[::1]",
        "[::1]:8650",
        "[0:0:0:0:0:0:0:1]:80",
        "[::ffff:7f00:1]:8650",
        "localhost",
        "LocalHost:8650",
        "localhost.",
        "localhost.:8650",
        "tauri.localhost",
        "",
    ],
)
def test_loopback_hosts(host: str) -> None:
    """Every form of a loopback host is answered, with and without a port; so is a client that sends none."""
    assert code(LOOPBACK_ONLY, {"host": host}) is None
    assert code(LOOPBACK_ONLY, {}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8650",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evillocalhost",
        "127.0.0.1@evil.example",
        "evil.example#.localhost",
        "evil.example/.localhost",
        "127.0.0.1, evil.example",
        "127.0.0.1 evil.example",
        "[::1",
        "::1",
        "[evil.example]",
        "localhost:port",
        "localhost..",
        ":8650",
        "0.0.0.0:8650",
        "[::]:8650",
        "192.168.1.5:8650",
        "gateway.lan",
        "*",
        ".localhost@evil",
    ],
)
def test_foreign_hosts(host: str) -> None:
    """Whatever else a Host says, and however it plays with the form, is refused."""
    assert code(LOOPBACK_ONLY, {"host": host}) == "host_not_allowed"


def test_two_hosts() -> None:
    """A request with two Host headers is refused, whichever is the right one."""
    raw = [(b"host", b"127.0.0.1"), (b"host", b"evil.example")]
    for headers in (raw, raw[::-1], [raw[0], raw[0]]):
        refusal = LOOPBACK_ONLY.refusal("GET", "/health", Headers(raw=headers))
        assert refusal is not None
        assert refusal.code == "host_not_allowed"


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("gateway.lan", True),
        ("GATEWAY.lan.:8650", True),
        ("192.168.1.5:8650", True),
        ("[fd00:0::5]:8650", True),
        ("other.gateway.lan", False),
        ("192.168.1.6", False),
    ],
)
def test_named_hosts(host: str, answered: bool) -> None:
    """The listen address and allowed hosts are answered, exactly those."""
    assert (code(NAMED, {"host": host}) is None) is answered


@pytest.mark.parametrize(
    ("host", "answered"), [("192.168.7.7:8650", True), ("[fe80::1]", True), ("evil.example", False)]
)
def test_listening_on_all_addresses(host: str, answered: bool) -> None:
    """A gateway on all addresses is answered under any IP address, which cannot be rebound, but no name."""
    assert (code(AccessPolicy(any_address=True), {"host": host}) is None) is answered


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8650",
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:3000",
        "http://[::1]:5173",
        "http://tauri.localhost",
        "app://obsidian.md",
        "tauri://localhost",
        "vscode-webview://0abc1",
        "vscode-file://vscode-app",
        "file://",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "cross-site"])
def test_origins_of_this_machine(origin: str, site: str | None) -> None:
    """Pages on loopback and inside installed programs are answered, be they of the gateway's site or not."""
    headers = {"host": OWN, "origin": origin} | ({"sec-fetch-site": site} if site else {})
    assert code(LOOPBACK_ONLY, headers, "POST", CHAT) is None


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "http://evil.example:8650",
        "null",
        "",
        "*",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost@evil.example",
        "http://evil.example/localhost",
        "http://localhost, https://evil.example",
        "https://evil.example http://localhost",
        "http://192.168.1.5:8650",
        "http://0.0.0.0:8650",
        "chrome-extension://abcdef",
        "moz-extension://abcdef",
        "http:localhost",
        "ftp://localhost",
        "localhost",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin", "cross-site"])
def test_foreign_origins(origin: str, site: str | None) -> None:
    """Pages of anywhere else, of nowhere (`null`), and of extensions are refused, GET and POST."""
    headers = {"host": OWN, "origin": origin} | ({"sec-fetch-site": site} if site else {})
    for method in ("GET", "POST", "OPTIONS"):
        assert code(LOOPBACK_ONLY, headers, method, CHAT) == "origin_not_allowed"
    assert code(LOOPBACK_ONLY, {"origin": "null"}) == "origin_not_allowed"


def test_two_origins() -> None:
    """A request with two Origin headers is refused, also if one would be allowed."""
    raw = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"https://evil.example")]
    refusal = LOOPBACK_ONLY.refusal("POST", CHAT, Headers(raw=raw))
    assert refusal is not None
    assert refusal.code == "origin_not_allowed"


@pytest.mark.parametrize(
    ("origin", "answered"),
    [
        ("https://chat.example", True),
        ("https://CHAT.example", True),
        ("http://chat.example:8080", True),
        ("http://chat.example", False),
        ("https://chat.example:8443", False),
        ("https://x.chat.example", False),
        ("chrome-extension://abcdef", True),
        ("moz-extension://abcdef", False),
        ("http://localhost:3000", True),
    ],
)
def test_named_origins(origin: str, answered: bool) -> None:
    """Allowed origins are answered, also as cross-site requests: exactly those, or all of a scheme."""
    headers = {"host": OWN, "origin": origin, "sec-fetch-site": "cross-site"}
    assert (code(NAMED, headers, "POST", CHAT) is None) is answered


@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        ("gateway.lan:8650", "http://gateway.lan:8650", True),
        ("gateway.lan", "https://gateway.lan", True),  # a proxy with TLS in front
        ("gateway.lan:8650", "http://gateway.lan:9000", False),
        ("gateway.lan:8650", "http://evil.example:8650", False),
        ("gateway.lan:8650", "null://gateway.lan:8650", False),
    ],
)
def test_the_own_page_under_another_name(host: str, origin: str, answered: bool) -> None:
    """The gateway's own page works under every host that is allowed; its neighbours on other ports do not."""
    headers = {"host": host, "origin": origin}
    assert (code(NAMED, headers, "POST", CHAT) is None) is answered


LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "sec-fetch-user": "?1"}


@pytest.mark.parametrize(
    ("method", "path", "fetch", "answered"),
    [
        ("GET", "/", LINK, True),
        ("GET", "/v1/models", LINK, False),
        ("GET", "/metrics", LINK, False),
        ("POST", "/", LINK, False),
        ("GET", "/", LINK | {"sec-fetch-dest": "iframe"}, False),
        ("GET", "/", {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, False),
        ("GET", "/", {}, False),
    ],
)
def test_links_from_elsewhere(method: str, path: str, fetch: dict[str, str], answered: bool) -> None:
    """Of cross-site requests without an Origin only one is answered: a link to the page, as a document."""
    headers = {"host": OWN, "sec-fetch-site": "cross-site"} | fetch
    assert (code(LOOPBACK_ONLY, headers, method, path) is None) is answered
    for site in ("none", "same-origin", "same-site"):
        assert code(LOOPBACK_ONLY, headers | {"sec-fetch-site": site}, method, path) is None


ATTACKS: list[dict[str, str]] = [
    {"host": OWN, "origin": EVIL},
    {"host": OWN, "origin": "null"},
    {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"host": "evil.example:8650"},
    {"host": "evil.example:8650", "origin": "http://evil.example:8650", "sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
@pytest.mark.parametrize("headers", ATTACKS)
async def test_every_path_is_guarded(
    generator_for: MakeFake, client_for: MakeClient, method: str, path: str, headers: dict[str, str]
) -> None:
    """No path, known or not, answers a foreign page; nothing is generated, and nothing may be read."""
    generator = generator_for()
    async with client_for(create_app(generator)) as client:
        answer = await client.request(
            method, path, headers=headers, content=TEXT if method == "POST" else None
        )
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert generator.records == []


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_simple_requests(generator_for: MakeFake, client_for: MakeClient, content_type: str) -> None:
    """A POST that a browser sends without a preflight is refused from elsewhere, and served to curl."""
    generator = generator_for()
    headers = {"content-type": content_type}
    async with client_for(create_app(generator)) as client:
        refused = await client.post(CHAT, content=TEXT, headers=headers | {"origin": EVIL})
        served = await client.post(CHAT, content=TEXT, headers=headers)
    assert (refused.status_code, served.status_code) == (403, 200)
    assert len(generator.records) == 1


async def test_refusals_are_errors_of_the_protocol(generator_for: MakeFake, client_for: MakeClient) -> None:
    """Each API answers in its own shape, and says what to do."""
    async with client_for(create_app(generator_for())) as client:
        headers = {"origin": EVIL}
        chat = (await client.post(CHAT, headers=headers)).json()["error"]
        messages = (await client.post("/v1/messages", headers=headers)).json()
        ollama = (await client.post("/api/chat", headers=headers)).json()
        host = (await client.get("/v1/models", headers={"host": "evil.example"})).json()["error"]
    assert (chat["code"], chat["type"]) == ("origin_not_allowed", "invalid_request_error")
    assert messages["error"]["type"] == "permission_error"
    for message in (chat["message"], messages["error"]["message"], ollama["error"]):
        assert EVIL in message
        assert "--allow-origin" in message
        assert "--gateway-api-key" in message
    assert host["code"] == "host_not_allowed"
    assert "--allowed-host" in host["message"]


async def test_a_refusal_is_logged_once(
    generator_for: MakeFake, client_for: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The same refusal is one line however often it happens, and a flood of names does not fill the log."""
    caplog.set_level(logging.WARNING, "openai_gateway.http.access")
    async with client_for(create_app(generator_for())) as client:
        for _ in range(3):
            await client.get("/health", headers={"origin": EVIL})
        assert len(caplog.records) == 1
        assert EVIL in caplog.records[0].getMessage()
        for number in range(200):
            await client.get("/health", headers={"host": f"a{number}.evil.example" + "x" * 5000})
    assert len(caplog.records) < 100
    assert max(len(record.getMessage()) for record in caplog.records) < 500


async def test_preflights(generator_for: MakeFake, client_for: MakeClient) -> None:
    """A preflight is refused like the request it announces; an allowed one may come from a public page."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    private = {"access-control-request-private-network": "true"}
    local = {"access-control-request-local-network": "true"}
    async with client_for(create_app(generator_for(), access=NAMED)) as client:
        refused = await client.options(CHAT, headers={"origin": EVIL} | asked | private)
        allowed = [
            await client.options(CHAT, headers={"origin": "https://chat.example"} | asked | network)
            for network in ({}, private, local)
        ]
        read = await client.post(CHAT, json=BODY, headers={"origin": "https://chat.example"})
    assert refused.status_code == 403
    assert not any(name.startswith("access-control") for name in refused.headers)
    for answer in (*allowed, read):
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "Origin" in answer.headers["vary"]
    answers = [{name for name in a.headers if name.endswith("-network")} for a in allowed]
    assert answers == [
        set(),
        {"access-control-allow-private-network"},
        {"access-control-allow-local-network"},
    ]


async def test_programs_and_local_pages_are_served(generator_for: MakeFake, client_for: MakeClient) -> None:
    """curl, a proxy that passes a local page's headers on, and the own page get their answers."""
    own = {"host": OWN, "origin": f"http://{OWN}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    proxied = {"host": OWN, "origin": "http://localhost:3000", "sec-fetch-site": "same-origin"}
    async with client_for(create_app(generator_for())) as client:
        for headers in ({}, {"user-agent": "curl/8", "accept": "*/*"}, own, proxied):
            answer = await client.post(CHAT, json=BODY, headers=headers)
            assert answer.json()["choices"][0]["message"]["content"] == "hello world"
        for path in (
            "/",
            "/web/js/app.js",
            "/v1/models",
            "/health",
            "/metrics",
            "/openapi.json",
            "/api/tags",
        ):
            assert (await client.get(path, headers=own)).status_code == 200


async def test_the_openai_sdk_is_served(generator_for: MakeFake, client_for: MakeClient) -> None:
    """OpenAI's SDK works; under a foreign name it gets its own exception with the code."""
    http = client_for(create_app(generator_for()))
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http) as client:
        answer = await client.chat.completions.create(model="default", messages=BODY["messages"])  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "hello world"
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.with_options(default_headers={"host": "evil.example"}).models.list()
    assert caught.value.code == "host_not_allowed"


async def test_a_key_guards_instead(generator_for: MakeFake, client_for: MakeClient) -> None:
    """With a key any host and origin is a 401 without it and served with it; CORS says what it may read."""
    async with client_for(create_app(generator_for(), api_key="key")) as client:
        for headers in ATTACKS:
            assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 401
            answer = await client.post(CHAT, json=BODY, headers=headers | {"authorization": "Bearer key"})
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        foreign = await client.options(CHAT, headers={"origin": EVIL} | asked)
        local = await client.options(CHAT, headers={"origin": "http://localhost:3000"} | asked)
    assert (foreign.status_code, local.status_code) == (400, 200)


async def test_any_origin_means_nothing_without_a_key(
    generator_for: MakeFake, client_for: MakeClient
) -> None:
    """An application made with `*` and no key lets no foreign page in."""
    access = AccessPolicy(origins=frozenset({"*"}))
    async with client_for(create_app(generator_for(), access=access)) as client:
        answer = await client.post(CHAT, json=BODY, headers={"origin": EVIL})
    assert answer.status_code == 403


def test_websockets_are_guarded() -> None:
    """A WebSocket, which CORS does not cover, is closed before it is open if a foreign page asks for it."""
    app = FastAPI()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    client = TestClient(BrowserGuard(app, LOOPBACK_ONLY, render_error), headers={"host": OWN})
    with client.websocket_connect("/socket", headers={"origin": "http://localhost:3000"}) as connection:
        assert connection.receive_text() == "hello"
    with (
        pytest.raises(WebSocketDisconnect) as caught,
        client.websocket_connect("/socket", headers={"origin": EVIL}),
    ):
        pass
    assert caught.value.code == 1008


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., EdgeSettings]:
    """`settings(**values)`: an agent's settings, on a free port."""
    (empty := tmp_path / "config.toml").touch()

    def make(**values: Any) -> EdgeSettings:
        given = {"cloud_url": "http://gpu:8000", "listen_port": 0, "config_file": empty}
        return load_settings(given | values)

    return make


def test_listening_beyond_loopback_needs_a_key(settings: Callable[..., EdgeSettings]) -> None:
    """Without a key the gateway does not listen where others reach it, unless that is asked for by name."""
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="--allow-keyless-network"):
            bind_gateway(settings(listen_host=host))
        with pytest.raises(ConfigError, match="PIPESD_GATEWAY_API_KEY"):
            bind_gateway(settings(listen_host=host, gateway_api_key=""))
        for allowed in ({"gateway_api_key": "key"}, {"allow_keyless_network": True}):
            bind_gateway(settings(listen_host=host, **allowed)).close()
    for host in ("127.0.0.1", "localhost", "::1"):
        bind_gateway(settings(listen_host=host)).close()


def test_a_refused_port_is_free_again(settings: Callable[..., EdgeSettings]) -> None:
    """A gateway that may not listen leaves nothing behind that does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConfigError):
        bind_gateway(settings(listen_host="0.0.0.0", listen_port=port))
    bind_gateway(settings(listen_port=port)).close()


@pytest.mark.parametrize("origin", ["*", "null"])
def test_any_origin_needs_a_key(settings: Callable[..., EdgeSettings], origin: str) -> None:
    """`*`, and `null`, which any page can send, are refused at start without a key, and taken with one."""
    with pytest.raises(ConfigError, match="any web page"):
        bind_gateway(settings(allow_origins=[origin]))
    bind_gateway(settings(allow_origins=[origin], gateway_api_key="key")).close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_origins", "chat.example.org"),
        ("allow_origins", "https://chat.example.org/"),
        ("allow_origins", "https://"),
        ("allow_origins", "https://*"),
        ("allowed_hosts", "http://gateway.lan"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "*.lan"),
        ("allowed_hosts", "a b"),
    ],
)
def test_names_that_are_none(settings: Callable[..., EdgeSettings], name: str, value: str) -> None:
    """A host or origin in a wrong form would never match: it is refused at start, and named."""
    with pytest.raises(ConfigError, match=f"{name}: "):
        bind_gateway(settings(**{name: [value]}))


def test_settings_become_a_policy(
    settings: Callable[..., EdgeSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Names come from flags, from the environment with commas, or from a list in the file, in any case."""
    expected = AccessPolicy(frozenset({"a.lan", "b.lan", "127.0.0.1"}), frozenset({"https://a.org"}))
    names = {"allowed_hosts": ["A.lan:8650", "b.lan."], "allow_origins": ["https://A.org:443"]}
    assert access_policy(settings(**names), "127.0.0.1") == expected
    file = tmp_path / "named.toml"
    file.write_text('allowed_hosts = ["a.lan", "b.lan"]\nallow_origins = ["https://a.org"]\n')
    assert access_policy(settings(config_file=file), "127.0.0.1") == expected
    monkeypatch.setenv("PIPESD_ALLOWED_HOSTS", "a.lan, b.lan")
    monkeypatch.setenv("PIPESD_ALLOW_ORIGINS", "https://a.org")
    assert access_policy(settings(allowed_hosts=()), "127.0.0.1") == expected
    assert access_policy(settings(listen_host="0.0.0.0", gateway_api_key="k"), "0.0.0.0").any_address


def test_risks(settings: Callable[..., EdgeSettings]) -> None:
    """What doctor and the start say: nothing on loopback, a sentence for each way beyond it."""
    assert risks(settings()) == []
    (closed,) = risks(settings(listen_host="0.0.0.0"))
    assert "would not start" in closed
    (open_to_all,) = risks(settings(listen_host="0.0.0.0", allow_keyless_network=True))
    assert "All who reach 0.0.0.0" in open_to_all
    (in_the_clear,) = risks(settings(listen_host="gateway.lan", gateway_api_key="key"))
    assert "unencrypted" in in_the_clear
    certificate = {"listen_host": "gateway.lan", "tls_cert": "cert.pem"}
    assert risks(settings(**certificate, gateway_api_key="key")) == []
    (encrypted_for_all,) = risks(settings(**certificate, allow_keyless_network=True))
    assert "All who reach gateway.lan" in encrypted_for_all
