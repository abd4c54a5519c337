"""The gateway called with OpenAI's client for Node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from .scripted import ANSWER, MODEL, WEATHER, calling, gateway

HERE = Path(__file__).with_name("node")
INSTALL_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def script() -> Path:
    """The client's script beside its installed package, kept in the user's cache between runs."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("no Node.js on this machine")
    folder = platformdirs.user_cache_path("pipesd") / "node-contract"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "client.mjs"):
        shutil.copyfile(HERE / name, folder / name)
    if not (folder / "node_modules" / "openai" / "package.json").is_file():
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        done = subprocess.run(
            install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"npm could not install the package 'openai': {done.stderr[-300:]}")
    return folder / "client.mjs"


async def test_the_node_client(script: Path) -> None:
    """Chat, stream, usage, tools, the Responses API, a typed error and leaving early, all in Node."""
    generator = calling()
    async with gateway(generator) as url:
        environment = {**os.environ, "PIPESD_URL": url, "PIPESD_MODEL": MODEL, "NO_PROXY": "*"}
        process = await asyncio.create_subprocess_exec(
            "node",
            str(script),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode()
    seen: dict[str, Any] = json.loads(output)
    assert seen["whole"] == seen["streamed"] == seen["response"] == ANSWER
    assert seen["usage"] == seen["streamedUsage"]
    for call in (seen["call"], seen["responseCall"]):
        assert (call["name"], call["arguments"]) == ("weather", WEATHER)
    assert seen["error"] == {"kind": "BadRequestError", "status": 400, "param": "temperature"}
