"""Models by name: those that are made here on first use, kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from platformdirs import user_cache_path

from edge_agent.drafting import embedded_model
from openai_gateway.cli.errors import CliError

__all__ = ["Catalog", "draft_description", "target_description"]

_BASE: Final = "SmolLM2-135M-Instruct"
_PRUNED: Final = MappingProxyType({"minus-3-layers": (4, 5, 3), "minus-6-layers": (4, 5, 3, 12, 6, 7)})
"""Drafts: the embedded model without these of its 30 layers."""
_DEPTH: Final = re.compile(r"depth-x([2-9]|[1-8]\.[1-9])")
_BUILDER_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Catalog:
    """Turns the name of a draft or target into what `--draft` or `--target` takes.

    Names that are not ours (embedded, paths, Hugging Face ids) come back as they are.
    """

    folder: Path = field(default_factory=lambda: user_cache_path("pipesd") / "pairs")
    show: Callable[[str], None] = lambda _: None

    def draft(self, name: str) -> str:
        """Raises `CliError`."""
        layers = _PRUNED.get(name)
        if layers is None:
            _check_other(name, "minus-", "draft", ", ".join(_PRUNED))
            return name
        source = embedded_model()
        path = self.folder / _key(source) / f"{_BASE}-{name}.gguf"
        if not path.is_file():
            self.show(f"Making {path.name}")
            with _partial(path) as partial:
                from benchmarks.pairs.pruned_draft import drop_layers

                drop_layers(source, partial, layers, f"{_BASE} {name} {list(layers)}")
        return str(path)

    def target(self, name: str) -> str:
        """Raises `CliError`."""
        match = _DEPTH.fullmatch(name)
        if match is None:
            _check_other(name, "depth-", "target", "depth-x1.1 to depth-x8.9 in tenths, depth-x9")
            return name
        from pipesd_vllm.launch import ensure_embedded_target

        source = ensure_embedded_target(progress=self.show)
        path = self.folder / source.parent.name / f"{_BASE}-{name}"
        if not path.is_dir():
            self.show(f"Making {path.name}")
            with _partial(path) as partial:
                partial.mkdir()
                _pad_in_child(source, partial, match[1])
        return str(path)


def _check_other(name: str, prefix: str, kind: str, made: str) -> None:
    """Raise `CliError` for a name that looks like one of ours and is none, unless it is a path."""
    if name.startswith(prefix) and not Path(name).exists():
        raise CliError(f"There is no {kind} {name!r}: made here are {made}; 'embedded' comes along.")


def draft_description(name: str) -> str:
    """What a draft is, in words for the report."""
    layers = _PRUNED.get(name)
    if layers is None:
        return name
    return f"{_BASE} (Q4_1) without its layers {', '.join(map(str, layers))} of 30, not retrained"


def target_description(name: str) -> str:
    """What a target is, in words for the report."""
    match = _DEPTH.fullmatch(name)
    if match is None:
        return name
    return f"{_BASE} with its depth padded {match[1]}-fold by layers that add zero: same text, dearer passes"


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A name to build under, moved to `path` once it is whole; the first of several builders wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as scratch:
        yield Path(scratch) / path.name
        if not path.exists():
            os.replace(Path(scratch) / path.name, path)


def _pad_in_child(source: Path, destination: Path, factor: str) -> None:
    command = [sys.executable, "-m", "benchmarks.pairs.padded_target", str(source), str(destination), factor]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CliError(f"The padded target could not be made: {last[0]}")


def _key(source: Path) -> str:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"pairs {_BUILDER_VERSION}".encode())
    return digest.hexdigest()[:12]
