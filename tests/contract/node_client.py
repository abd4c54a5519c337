"""OpenAI's client for Node: its package, kept in the user's cache, and runs of node/client.mjs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
import pytest

HERE = Path(__file__).with_name("node")
INSTALL_TIMEOUT_S = 240
RUN_TIMEOUT_S = 300


def install(npm: str, folder: Path) -> None:
    """Put the package into `folder`, whole or not at all; skips the test if npm cannot get it."""
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    with tempfile.TemporaryDirectory(dir=folder, prefix="install-") as draft:
        shutil.copyfile(HERE / "package.json", Path(draft, "package.json"))
        try:
            done = subprocess.run(
                command, cwd=draft, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install the package 'openai' within {INSTALL_TIMEOUT_S} s")
        if done.returncode != 0:
            pytest.skip(f"npm could not install the package 'openai': {done.stderr[-300:]}")
        with suppress(OSError):  # another run was quicker
            Path(draft, "node_modules").rename(folder / "node_modules")


@contextmanager
def script() -> Iterator[Path]:
    """The client's script, in a folder of this run below its package. Skips the test without Node.js."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("no Node.js on this machine")
    folder = platformdirs.user_cache_path("pipesd") / "node-contract"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "openai" / "package.json").is_file():
        install(npm, folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="run-") as own:
        yield Path(shutil.copyfile(HERE / "client.mjs", Path(own, "client.mjs")))


async def run(script: Path, url: str, model: str, question: str) -> dict[str, Any]:
    """What the script read from the gateway at `url`."""
    told = {"PIPESD_URL": url, "PIPESD_MODEL": model, "PIPESD_QUESTION": question, "NO_PROXY": "*"}
    process = await asyncio.create_subprocess_exec(
        "node",
        str(script),
        env={**os.environ, **told},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    assert process.returncode == 0, errors.decode()
    seen: dict[str, Any] = json.loads(output)
    return seen
