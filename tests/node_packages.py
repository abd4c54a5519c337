"""Packages of npm that tests need, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import platformdirs
import pytest

__all__ = ["installed"]

_INSTALL_TIMEOUT_S: Final = 240
_OPTIONS: Final = (
    *("--no-audit", "--no-fund", "--no-package-lock"),
    *("--ignore-scripts", "--omit=optional"),
)


def installed(manifest: Path) -> Path:
    """A folder whose `node_modules` has what `manifest` (a `package.json`) depends on.

    Skips the test without Node.js, or if npm cannot get it.
    """
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("no Node.js on this machine")
    content = manifest.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    folder = platformdirs.user_cache_path("pipesd") / "tests" / f"node-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    names = json.loads(content)["dependencies"]
    if not all((folder / "node_modules" / name / "package.json").is_file() for name in names):
        _install(npm, manifest, folder, ", ".join(names))
    return folder


def _install(npm: str, manifest: Path, folder: Path, names: str) -> None:
    """Whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="install-") as draft:
        shutil.copyfile(manifest, Path(draft, "package.json"))
        try:
            done = subprocess.run(
                [npm, "install", *_OPTIONS],
                cwd=draft,
                capture_output=True,
                text=True,
                timeout=_INSTALL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install {names} within {_INSTALL_TIMEOUT_S} s")
        if done.returncode != 0:
            pytest.skip(f"npm could not install {names}: {done.stderr[-300:]}")
        with suppress(OSError):  # another run was quicker
            Path(draft, "node_modules").rename(folder / "node_modules")
