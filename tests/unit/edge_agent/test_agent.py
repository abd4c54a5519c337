"""What an agent's sessions get out of its settings."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn

from edge_agent.agent import agent_parameters, for_another_target, policy_parameters
from edge_agent.control import FixedParameters, PolicyParameters, TunedParameters
from edge_agent.errors import CloudUnreachable
from edge_agent.settings import EdgeSettings
from pipesd_vllm.wire import INFO_PATH, fingerprint
from tests.servers import QuietServer


def settings(**values: Any) -> EdgeSettings:
    return EdgeSettings(cloud_url="http://verifier", **values)


def test_policies_get_their_part_of_the_settings() -> None:
    """Thresholds, look-ahead, patience and window, each under its own name."""
    given = settings(
        sequence_threshold=0.31, token_threshold=0.36, max_ahead=17, patience_ms=501, max_window=9
    )
    assert policy_parameters(given) == PolicyParameters(0.31, 0.36, 17, 501, 9)


async def test_settings_for_another_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what belongs to the first one; a target that cannot be asked is an error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vocabulary = fingerprint([f"t{i}" for i in range(10)])
    info = {
        "model": "other",
        "max_model_len": 64,
        "vocab_size": 10,
        "fingerprint": {"num_tokens": 10, "sha256": vocabulary.sha256},
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == INFO_PATH
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": msgspec.json.encode(info)})

    first = settings(
        replicas=("http://twin",), other_targets=("http://b", "http://c"), trace=tmp_path / "t", draft="none"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = QuietServer(uvicorn.Config(app, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        own = await for_another_target(first, url)
        server.should_exit = True
        await serving
    assert (own.cloud_url, own.replicas, own.other_targets, own.trace) == (url, (), (), None)
    assert (own.draft, own.mode) == ("none", first.mode)
    with pytest.raises(CloudUnreachable):
        await for_another_target(first, url)


def test_only_a_known_target_is_tuned_for() -> None:
    """Results are filed by the target's name; without one, or without `tune`, the settings hold."""
    assert isinstance(agent_parameters(settings(tune=True), "draft", "target"), TunedParameters)
    assert isinstance(agent_parameters(settings(tune=True), "draft", None), FixedParameters)
    assert isinstance(agent_parameters(settings(tune=False), "draft", "target"), FixedParameters)
