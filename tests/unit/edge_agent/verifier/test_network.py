"""Proxies and certificates, for plain requests and WebSockets alike."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from edge_agent.errors import CloudUnreachable, ConfigError
from edge_agent.testing import fake_welcome
from edge_agent.verifier import CloudApi, WebSocketConnector, proxy_of, trusting
from pipesd_vllm.wire import SUBPROTOCOL, encode, fingerprint


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("https_proxy", "http://proxy:3129")
    monkeypatch.setenv("no_proxy", ".example:9,inside.example")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://gpu:8000", "http://proxy:3128"),
        ("https://gpu.example/base", "http://proxy:3129"),
        ("http://127.0.0.1:8000", None),
        ("http://localhost:8000", None),
        ("http://[::1]:8000", None),
        ("http://inside.example:8000", None),
    ],
)
def test_proxy(url: str, proxy: str | None) -> None:
    """As the environment names it; never for this machine, nor for what `NO_PROXY` lists."""
    assert proxy_of(url) == proxy


def test_one_proxy_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ALL_PROXY`, where no other is named."""
    monkeypatch.delenv("https_proxy")
    assert proxy_of("https://gpu") is None
    monkeypatch.setenv("all_proxy", "https://proxy")
    assert proxy_of("https://gpu") == "https://proxy"
    assert proxy_of("http://gpu") == "http://proxy:3128"


def test_a_proxy_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an http proxy, as curl has it."""
    monkeypatch.setenv("http_proxy", "proxy:3128")
    assert proxy_of("http://gpu") == "http://proxy:3128"


@pytest.mark.parametrize(
    "proxy", ["socks5://proxy:1080", "socks5h://proxy:1080", "ftp://proxy", "socks4://proxy"]
)
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str) -> None:
    """Is told at the start, with the way round it: SOCKS needs packages that pipesd does not bring."""
    monkeypatch.setattr("edge_agent.verifier.network.find_spec", lambda name: None)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigError, match=r"proxy for http://gpu:8000.*put gpu into NO_PROXY"):
        CloudApi("http://gpu:8000", None, 1.0, tmp_path)
    monkeypatch.setattr("edge_agent.verifier.network.find_spec", lambda name: object())
    if proxy.startswith("socks5"):
        assert proxy_of("http://gpu:8000") == proxy


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates(content: bytes | None, tmp_path: Path) -> None:
    """Is said to be one, before anything is connected."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca_file: .*ca\.pem"):
        trusting(file)
    assert trusting(None) is None


def of_this_machine(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate that nobody vouches for, as a file and as a server's side of TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(addresses, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    kept = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, *kept))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    return pem, context


async def test_sessions_trust_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """Once it is named; without that, and with the usual ones alone, nothing is said to the server."""
    pem, context = of_this_machine(tmp_path)
    welcome = fake_welcome(fingerprint(["a", "b"]))

    async def handle(connection: ServerConnection) -> None:
        await connection.send(encode(welcome))
        await connection.wait_closed()

    protocols = [Subprotocol(SUBPROTOCOL)]
    async with serve(handle, "127.0.0.1", 0, subprotocols=protocols, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = await WebSocketConnector(url, None, 10.0, trusting(pem)).connect()
        assert (await transport.receive())[0] == welcome
        await transport.close()
        with pytest.raises(CloudUnreachable, match="certificate"):
            await WebSocketConnector(url, None, 10.0).connect()


async def test_plain_requests_trust_it_too(tmp_path: Path) -> None:
    """The same setting holds for both channels."""
    pem, context = of_this_machine(tmp_path)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        knowing = CloudApi(url, None, 10.0, tmp_path, tls=trusting(pem))
        assert await knowing.is_healthy()
        ignorant = CloudApi(url, None, 10.0, tmp_path)
        with pytest.raises(CloudUnreachable, match="CERTIFICATE"):
            await ignorant.forward("/v1/completions", b"{}")
        await knowing.close()
        await ignorant.close()
