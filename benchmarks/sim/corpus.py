"""Plans that once found a bug, each with the sentence of what it found: one JSON file an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.sim.plan import Plan

__all__ = ["FOLDER", "Entry", "read_corpus", "write_entry"]

FOLDER: Final = Path("tests/simulation/corpus")
"""Where the entries lie, from the repository's root."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry."""

    found: str
    """One sentence: what was wrong in the product."""
    plan: Plan
    planted: str | None = None
    """The planted bug (`benchmarks.sim.planted`) under which the plan fails again."""


def read_corpus(folder: Path) -> dict[str, Entry]:
    """The entries by name, in order. Raises `msgspec.ValidationError`."""
    files = sorted(folder.glob("*.json"))
    return {file.stem: msgspec.json.decode(file.read_bytes(), type=Entry) for file in files}


def write_entry(folder: Path, name: str, entry: Entry) -> Path:
    """Write `entry`, indented to be read; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")
    return file
