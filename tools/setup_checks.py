"""What the machine must have before anything is installed. For `setup.py`: the standard library alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["SetupError", "check_disk", "check_python", "check_tools", "check_venv_module"]

MIN_PYTHON = (3, 11)
MAX_PYTHON = (3, 14)  # vLLM 0.32 has no build for later ones
COMPILERS = ("c++", "g++", "clang++")


class SetupError(Exception):
    """One sentence that says what is missing and what to do."""


def check_python(version: tuple[int, ...]) -> None:
    """Raise `SetupError` if vLLM or PipeSD cannot run on Python `version`."""
    found, low, high = (".".join(map(str, v[:2])) for v in (version, MIN_PYTHON, MAX_PYTHON))
    if not MIN_PYTHON <= tuple(version[:2]) <= MAX_PYTHON:
        raise SetupError(
            f"Python {low} to {high} is needed, this is {found}: install one, "
            "then run `make setup PYTHON=/path/to/python3`."
        )


def check_venv_module() -> None:
    """Raise `SetupError` if this Python cannot make virtual environments (Debian splits it off)."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(
            "This Python cannot make virtual environments: install its venv module "
            "(Debian, Ubuntu: `apt install python3-venv`)."
        ) from error


def check_tools(path: str | None = None, compiler: str | None = os.environ.get("CXX")) -> None:
    """Raise `SetupError` if git or a C++ compiler is not on `path` (default: PATH)."""
    if shutil.which("git", path=path) is None:
        raise SetupError("git is not installed: install it (Debian, Ubuntu: `apt install git`).")
    candidates = (compiler.split()[0],) if compiler else COMPILERS
    if not any(shutil.which(name, path=path) for name in candidates):
        raise SetupError(
            f"No C++ compiler found ({', '.join(candidates)}), llama.cpp needs one: install it "
            "(Debian, Ubuntu: `apt install g++`; macOS: `xcode-select --install`) or point CXX at it."
        )


def check_disk(folder: Path, needed_gb: float) -> None:
    """Raise `SetupError` if the disk of `folder` has less than `needed_gb` (10^9 bytes) free."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            f"{needed_gb:g} GB of free disk are needed at {folder}, {free_gb:.1f} GB are there: "
            "free some space, then run `make setup` again."
        )
