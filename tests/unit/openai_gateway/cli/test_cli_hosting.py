"""The gateway's process: it serves until it is told to stop, and closes the agent however it ends."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.api import Generator
from edge_agent.errors import CloudUnreachable
from edge_agent.settings import EdgeSettings, load_settings
from edge_agent.testing import FakeGenerator
from openai_gateway.cli.hosting import StartAgent, bind_gateway, run_gateway

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


def test_serves_until_told_to_stop(
    settings: EdgeSettings, generator_for: Callable[..., FakeGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway answers on the bound port, tells where, and returns when its server is gone."""
    generator, stopped = generator_for(), threading.Event()
    with bind_gateway(settings) as listener:
        port = listener.getsockname()[1]
        with Visitor(port, "/health", stopped.set) as visitor:
            run_gateway(settings, listener, starting(generator), stopped.is_set)
    assert visitor.status == 200
    assert generator.closed
    announced = capsys.readouterr().err
    assert f'openai.OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="YOUR_KEY")' in announced
    assert "org/target at http://gpu:8000" in announced


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
