"""The real stack, started once a test run: vLLM with the plugin, the embedded model in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

from openai_gateway.cli.errors import CliError
from openai_gateway.cli.local_target import local_target
from openai_gateway.cli.processes import ServerProcess

# How fast an example runs is the machine's business: a busy one must not fail a test.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

API_KEY = "sk-test-verifier"
OTHER_API_KEY = "sk-test-other-tenant"


@dataclass(frozen=True)
class Verifier:
    """A running vLLM server with the plugin."""

    base_url: str
    api_key: str
    model: str
    process: ServerProcess

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@pytest.fixture(scope="session", autouse=True)
def starting_verifier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess | CliError | None]:
    """The engine tests' server, if there are any, started while the first other tests run."""
    if not any("verifier" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    flags = ["--dtype", "float32", "--api-key", API_KEY, OTHER_API_KEY]
    # What tests/e2e/test_rendering.py compares prompts with.
    flags += ["--enable-scale-out", "--trust-request-chat-template"]
    log_dir = tmp_path_factory.mktemp("verifier")
    try:
        server = local_target("embedded", flags, log_dir=log_dir)
    except CliError as error:  # concerns the engine's tests alone
        yield error
        return
    with server:
        yield server


@pytest.fixture(scope="session")
def verifier(starting_verifier: ServerProcess | CliError | None) -> Verifier:
    """The server all engine tests share (tens of seconds to start)."""
    if not isinstance(starting_verifier, ServerProcess):
        raise starting_verifier or AssertionError("no test that asks for it was collected")
    starting_verifier.wait_ready(timeout_s=600)
    return Verifier(starting_verifier.base_url, API_KEY, "SmolLM2-135M-Instruct", starting_verifier)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real engine, so that `-m "not engine"` leaves it out."""
    for item in items:
        if "verifier" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engine)
