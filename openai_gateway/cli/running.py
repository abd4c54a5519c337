"""The registry of this user's running gateways and servers: one small file each, removed at the end.

A file whose process is gone is stale: it is passed over, and removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Running", "alive", "announced", "list_running", "state_dir", "write_state"]


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway or server. `started` is its process's start as the system counts it, "" if unknown."""

    kind: str
    pid: int
    url: str
    model: str
    started: str = ""

    @property
    def health_url(self) -> str:
        """Where it says whether it is well."""
        return f"{self.url}/health"


def state_dir() -> Path:
    """The folder of this user's state files."""
    import platformdirs

    return platformdirs.user_state_path("pipesd") / "running"


def process_start(pid: int) -> str | None:
    """What tells a process from a later one with its id (Linux: start in clock ticks); None: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None if Path("/proc/self/stat").exists() or not _signalled(pid) else ""


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def alive(running: Running) -> bool:
    """Whether the process that wrote the file still runs."""
    return process_start(running.pid) == running.started


def write_state(kind: str, url: str, model: str, folder: Path) -> Path | None:
    """Note that this process serves; the file, or None if it cannot be written (nothing depends on it)."""
    pid = os.getpid()
    running = Running(kind, pid, url, model, process_start(pid) or "")
    path = folder / f"{kind}-{pid}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(json.dumps(asdict(running)), encoding="utf-8")
    except OSError:
        return None
    return path


@contextmanager
def announced(kind: str, url: str, model: str, folder: Path | None = None) -> Iterator[None]:
    """`pipesd ps` lists this process while the context is open."""
    path = write_state(kind, url, model, folder or state_dir())
    try:
        yield
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def list_running(folder: Path, is_alive: Callable[[Running], bool] = alive) -> list[Running]:
    """What runs now. Stale and unreadable files are removed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            running = Running(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            running = None
        if running is not None and is_alive(running):
            found.append(running)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return found
