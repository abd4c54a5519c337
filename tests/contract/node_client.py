"""OpenAI's client for Node: runs of node/client.mjs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.node_packages import installed

HERE = Path(__file__).with_name("node")
RUN_TIMEOUT_S = 300


@contextmanager
def script() -> Iterator[Path]:
    """The client's script, in a folder of this run below its package. Skips the test without Node.js."""
    folder = installed(HERE / "package.json")
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
