"""Edges before a real nginx with deploy/nginx/pipesd.conf, and two servers behind it on real sockets.

The servers have the plugin's own routes; only the engine is a script, which says a function of the position.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.api import GenerationRequest, Sampling, SessionMode
from edge_agent.control import FixedParameters, PolicyParameters
from edge_agent.errors import CloudError, CloudOverloaded
from edge_agent.session import CollaborativeSession, ControlPlane
from edge_agent.tracing import NullRecorder
from edge_agent.verifier import ConnectionPool, WebSocketConnector
from openai_gateway.cli.processes import free_port
from pipesd_vllm.api.tenant import OpenConnections
from pipesd_vllm.wire import Welcome

from .scripted_server import NUM_TOKENS, PROMPT, TEXT, Server, connectable

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "pipesd.conf"
PARAMETERS = PolicyParameters(
    sequence_threshold=0.3, token_threshold=0.2, max_ahead=4, patience_ms=500, max_window=4
)

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@asynccontextmanager
async def behind_nginx(folder: Path) -> AsyncIterator[tuple[str, list[Server]]]:
    """The URL of an nginx before two running servers."""
    servers = [Server(), Server()]
    for server in servers:
        await server.start()
    port = free_port("127.0.0.1")
    own = CONFIG.read_text(encoding="utf-8").replace("listen 8080", f"listen 127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        own = own.replace(f"verifier-{number}:8000", f"127.0.0.1:{server.port}")
    assert not re.search(r"verifier-\d", re.sub(r"#.*", "", own))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"{own}\n}}\n"
    )
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(NGINX, "-c", str(config))
    try:
        await connectable(port)
        yield f"http://127.0.0.1:{port}", servers
    finally:
        process.terminate()
        await process.wait()
        for server in servers:
            if server.is_up:
                await server.kill()


async def _fits(_: Welcome) -> None:
    return


async def answer(url: str, affinity: str) -> list[int]:
    """One whole answer over a connection of its own."""
    pool = ConnectionPool(WebSocketConnector(url, None, 10.0, affinity=affinity), _fits, 10.0)
    plane = ControlPlane(FixedParameters(PARAMETERS), NullRecorder(), asyncio.get_running_loop().time)
    request = GenerationRequest("r", PROMPT, Sampling(NUM_TOKENS))
    control = plane.start_session("r", len(PROMPT), "adaptive", SessionMode.LATENCY)
    session = CollaborativeSession(request, pool, None, lambda: control, asyncio.get_running_loop().time)
    try:
        return [token for chunk_ in [c async for c in session.run()] for token in chunk_.token_ids]
    finally:
        await pool.close()


async def test_an_edge_finds_its_server_again_and_edges_are_spread(tmp_path: Path) -> None:
    """Connections of one name reach one server; twenty names reach both."""
    async with behind_nginx(tmp_path) as (url, servers):
        for name in ("one", "other"):
            before = [server.engine.turns for server in servers]
            assert [await answer(url, name) for _ in range(3)] == [TEXT] * 3
            gained = [server.engine.turns - old for server, old in zip(servers, before, strict=True)]
            assert sorted(gained) == [0, 3]
        assert all(text == TEXT for text in [await answer(url, f"edge {n}") for n in range(20)])
        assert all(server.engine.turns > 2 for server in servers)


async def test_a_killed_server_differs_no_text(tmp_path: Path) -> None:
    """Sixteen answers under way while each server is killed in turn and comes back: the other one goes on."""
    async with behind_nginx(tmp_path) as (url, servers):
        for server in servers:
            answers = [asyncio.create_task(answer(url, f"edge {n}")) for n in range(16)]
            await asyncio.sleep(0.08)
            await server.kill()
            assert await asyncio.gather(*answers) == [TEXT] * 16
            await server.start()


async def test_a_full_server_passes_edges_on(tmp_path: Path) -> None:
    """HTTP 429 at the upgrade goes to the next server; when all are full, it reaches the edge."""
    async with behind_nginx(tmp_path) as (url, servers):
        servers[0].state.connections = OpenConnections(0, 0)
        assert [await answer(url, f"edge {n}") for n in range(6)] == [TEXT] * 6
        assert servers[0].engine.turns == 0
        servers[1].state.connections = OpenConnections(0, 0)
        with pytest.raises(CloudError) as caught:
            await WebSocketConnector(url, None, 10.0, affinity="edge").connect()
        assert isinstance(caught.value, CloudOverloaded)
