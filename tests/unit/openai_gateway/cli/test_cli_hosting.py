"""The gateway's process: it serves until it is told to stop, and closes the agent however it ends."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.api import Generator
from edge_agent.errors import CloudUnreachable, ConfigError
from edge_agent.settings import EdgeSettings, load_settings
from edge_agent.testing import FakeGenerator
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.hosting import StartAgent, bind_gateway, run_gateway, with_header_timeout
from openai_gateway.cli.processes import bind_listener

TELLTALES = ("httpcore", "httpx", "openai", "sse_starlette.sse", "websockets", "websockets.client")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[EdgeSettings]:
    handlers, level = list(logging.root.handlers), logging.root.level
    levels = {name: logging.getLogger(name).level for name in TELLTALES}
    (empty := tmp_path / "config.toml").touch()
    given = {"cloud_url": "http://gpu:8000", "listen_port": 0, "gateway_api_key": "key"}
    yield load_settings({**given, "config_file": empty})
    logging.root.handlers[:] = handlers
    for name, before in ({"": level} | levels).items():
        logging.getLogger(name).setLevel(before)


def starting(generator: FakeGenerator) -> StartAgent:
    async def start(_: EdgeSettings) -> Generator:
        return generator

    return start


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


class Visitor:
    """In a thread of its own: asks for `path`, then does `then`."""

    def __init__(self, port: int, path: str, then: Callable[[], None]) -> None:
        self.status: int | None = None
        self._arguments = (port, path)
        self._then = then
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        self.status = status_of(*self._arguments)
        self._then()


def served_until_visited(settings: EdgeSettings, generator: FakeGenerator) -> int:
    """The port on which a gateway answered that somebody's visit told to stop."""
    stopped = threading.Event()
    with bind_gateway(settings) as listener:
        port: int = listener.getsockname()[1]
        with Visitor(port, "/health", stopped.set) as visitor:
            run_gateway(settings, listener, starting(generator), stopped.is_set)
    assert visitor.status == 200
    assert generator.closed
    return port


def test_serves_until_told_to_stop(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway answers on the bound port, tells where, and returns when its server is gone."""
    port = served_until_visited(settings, generator_for())
    announced = capsys.readouterr().err
    assert f'openai.OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="YOUR_KEY")' in announced
    assert "org/target at http://gpu:8000" in announced


def test_another_target_that_is_away_does_not_keep_it_from_serving(
    settings: EdgeSettings,
    generator_for: Callable[..., FakeGenerator],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said, and tried again while the first one's requests are answered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    several = settings.model_copy(update={"other_targets": ("http://127.0.0.1:9",)})
    served_until_visited(several, generator_for())
    announced = capsys.readouterr().err
    assert "org/target at http://gpu:8000" in announced
    assert "at http://127.0.0.1:9: out of reach" in announced


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], number: int
) -> None:
    """Ctrl-C and SIGTERM close the agent and exit with 128 + signal."""
    generator = generator_for()
    with bind_gateway(settings) as listener:
        port = listener.getsockname()[1]
        with (
            Visitor(port, "/v1/models", lambda: os.kill(os.getpid(), number)) as visitor,
            pytest.raises(SystemExit) as caught,
        ):
            run_gateway(settings, listener, starting(generator))
    assert caught.value.code == 128 + number
    assert visitor.status == 401  # the key of the settings is asked for
    assert generator.closed


def test_an_unreachable_target_closes_the_agent(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator]
) -> None:
    """An agent that never reached its server is closed again, and the reason is raised."""
    generator = generator_for()
    generator.unreachable = CloudUnreachable("out of reach")
    with bind_gateway(settings) as listener, pytest.raises(CloudUnreachable):
        run_gateway(settings, listener, starting(generator))
    assert generator.closed


@pytest.mark.parametrize(("level", "lowest"), [("debug", logging.WARNING), ("error", logging.ERROR)])
def test_libraries_do_not_log_keys(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], level: Any, lowest: int
) -> None:
    """At level debug our own loggers speak up, those that would log headers and frames do not."""
    generator = generator_for()
    logging.root.handlers[:] = []  # pytest's own would keep `basicConfig` from setting a level
    with bind_gateway(settings) as listener:
        chosen = settings.model_copy(update={"log_level": level})
        run_gateway(chosen, listener, starting(generator), lambda: True)
    assert logging.getLogger("pipesd").getEffectiveLevel() == logging.getLevelNamesMapping()[level.upper()]
    assert {logging.getLogger(name).getEffectiveLevel() for name in TELLTALES} == {lowest}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    chain, file = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return chain, file


def test_https(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], certificate: tuple[Path, Path]
) -> None:
    """With a certificate the gateway speaks TLS, and says so in its address."""
    chain, key = certificate
    secure = settings.model_copy(update={"tls_cert": chain, "tls_key": key})
    trusting = ssl.create_default_context(cafile=str(chain))
    stopped = threading.Event()
    status: list[int] = []
    with bind_gateway(secure) as listener:
        port = listener.getsockname()[1]

        def visit() -> None:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=trusting)
            connection.request("GET", "/health")
            with connection.getresponse() as answer:
                answer.read()
                status.append(answer.status)
            connection.close()
            stopped.set()

        thread = threading.Thread(target=visit)
        thread.start()
        run_gateway(secure, listener, starting(generator_for()), stopped.is_set)
        thread.join()
    assert status == [200]


def test_a_certificate_that_is_none(settings: EdgeSettings, tmp_path: Path) -> None:
    """It is told before anything is started."""
    (tmp_path / "x.pem").write_text("nothing", encoding="utf-8")
    for broken in ({"tls_cert": tmp_path / "x.pem"}, {"tls_key": tmp_path / "x.pem"}):
        with pytest.raises(ConfigError, match="tls_"):
            bind_gateway(settings.model_copy(update=broken))


def test_a_unix_socket(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], tmp_path: Path
) -> None:
    """Only this user may open it; one of a gateway that is gone is replaced, any other file is not."""
    path = tmp_path / "s"
    local = settings.model_copy(update={"unix_socket": path, "gateway_api_key": None})
    bind_gateway(local).close()  # leaves its file behind
    stopped = threading.Event()
    answer: list[bytes] = []
    with bind_gateway(local) as listener:
        assert path.stat().st_mode & 0o077 == 0
        with pytest.raises(CliError, match="already"):
            bind_gateway(local)

        def visit() -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while part := connection.recv(4096):
                    answer.append(part)
            stopped.set()

        thread = threading.Thread(target=visit)
        thread.start()
        run_gateway(local, listener, starting(generator_for()), stopped.is_set)
        thread.join()
    assert b"".join(answer).startswith(b"HTTP/1.1 200")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(CliError):
        bind_gateway(local.model_copy(update={"unix_socket": tmp_path / "file"}))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("drain_s", "is_whole"), [(60.0, True), (0.0, False)])
def test_answers_under_way_when_it_is_told_to_stop(
    settings: EdgeSettings,
    generator_for: Callable[..., FakeGenerator],
    drain_s: float,
    is_whole: bool,
) -> None:
    """They may go on for so long, and no longer: with no time they are cut."""
    gate, has_begun = asyncio.Event(), threading.Event()
    generator = generator_for("hello world", gate=gate)
    got = bytearray()

    def visit(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = '{"stream": true, "messages": [{"role": "user", "content": "x"}]}'
        connection.request("POST", "/v1/chat/completions", body, {"Authorization": "Bearer key"})
        answer = connection.getresponse()
        with suppress(http.client.IncompleteRead):
            while part := answer.read1():
                got.extend(part)
                has_begun.set()
        connection.close()

    def stop() -> bool:
        if has_begun.is_set() and is_whole:
            asyncio.get_running_loop().call_later(0.2, gate.set)  # once it is told to stop
        return has_begun.is_set()

    draining = settings.model_copy(update={"drain_s": drain_s})
    with bind_gateway(draining) as listener:
        visitor = threading.Thread(target=visit, args=(listener.getsockname()[1],))
        visitor.start()
        run_gateway(draining, listener, starting(generator), stop)
        visitor.join()
    assert got.endswith(b"data: [DONE]\n\n") == is_whole
    assert generator.records[0].finished == is_whole
    assert generator.closed


def test_connections_beyond_the_limit(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator]
) -> None:
    """Get a 503 at once; those that are there are answered."""
    limited = settings.model_copy(update={"max_connections": 3})
    found: list[int] = []
    stopped = threading.Event()

    def visit(port: int) -> None:
        held = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(4)]
        for connection in (*held, held[0]):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            found.append(answer.status)
        for connection in held:
            connection.close()
        stopped.set()

    with bind_gateway(limited) as listener:
        visitor = threading.Thread(target=visit, args=(listener.getsockname()[1],))
        visitor.start()
        run_gateway(limited, listener, starting(generator_for()), stopped.is_set)
        visitor.join()
    assert found == [200, 200, 200, 503, 200]


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """So a client cannot hold connections without asking for anything; one that has asked may be idle."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=with_header_timeout(0.2), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    with bind_listener("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        silent, silence = await asyncio.open_connection("127.0.0.1", port)
        half, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        asked, asking = await asyncio.open_connection("127.0.0.1", port)
        asking.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(silent.read(), 20.0) == b""
        assert await asyncio.wait_for(half.read(), 20.0) == b""
        asking.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(2):
            assert b"204" in await asyncio.wait_for(asked.readuntil(b"\r\n\r\n"), 20.0)
        for each in (silence, writer, asking):
            each.close()
            await each.wait_closed()
        server.should_exit = True
        await serving
