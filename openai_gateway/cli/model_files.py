"""Models on this machine's disk: draft GGUF files and built targets, with their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ModelFile", "built_targets", "drafts_in_hub_cache", "size_text"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model, how `--draft` or `--target` names it, and its bytes on disk."""

    kind: str
    name: str
    path: Path
    num_bytes: int


def drafts_in_hub_cache(cache: Path) -> Iterator[ModelFile]:
    """GGUF files in a Hugging Face cache folder, once each, named as `--draft` takes them."""
    seen = set()
    for path in sorted(cache.glob("models--*/snapshots/*/**/*.gguf")):
        parts = path.relative_to(cache).parts
        repository = parts[0].removeprefix("models--").replace("--", "/", 1)
        name = f"hf:{repository}/{'/'.join(parts[3:])}"
        if name not in seen and path.is_file():
            seen.add(name)
            yield ModelFile("draft", name, path, path.stat().st_size)


def built_targets(cache: Path) -> Iterator[ModelFile]:
    """Targets that pipesd built: folders with a `config.json` under `cache`/models."""
    for config in sorted((cache / "models").glob("**/config.json")):
        folder = config.parent
        yield ModelFile("target", folder.name, folder, _bytes_of(folder.rglob("*")))


def _bytes_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def size_text(num_bytes: int) -> str:
    """`num_bytes` in decimal units, as disks are sold."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
