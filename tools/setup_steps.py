"""Commands that take minutes: shown while they run, logged, explained when they fail.

For `setup.py`: the standard library alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from setup_checks import SetupError

__all__ = ["Progress", "explain_failure", "run_step"]

# What pip prints when it fails, and what to do about it. The first that matches counts.
CAUSES = (
    (r"No space left on device", "the disk is full: free some gigabytes, then run `make setup` again."),
    (
        r"NewConnectionError|Name or service not known|name resolution|Network is unreachable|ProxyError",
        "pip cannot reach the package index: check the network or proxy, then run `make setup` again.",
    ),
    (
        r"No matching distribution found for torch",
        "the package index has no CPU build of torch 2.13.0: add PyTorch's index of CPU wheels to pip "
        "(PIP_EXTRA_INDEX_URL), then run `make setup` again.",
    ),
    (
        r"Failed building wheel for llama.cpp.python",
        "llama.cpp did not compile: check that the C++ compiler works and is recent (C++17).",
    ),
)


class Progress:
    """One live line on a terminal; a line every 20 seconds elsewhere."""

    INTERVAL_S = 20.0

    def __init__(self, title: str) -> None:
        self._title = title
        self._started_s = self._shown_s = time.monotonic()
        self._live = sys.stdout.isatty()
        if not self._live:
            print(f"{title} ...", flush=True)

    def show(self, detail: str) -> None:
        """Say what is going on."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.1 if self._live else self.INTERVAL_S):
            return
        self._shown_s = now_s
        text = f"{self._title} ({self._elapsed()}) {detail.strip()}"
        if self._live:
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(f"  {self._elapsed()} {detail.strip()[:150]}", flush=True)

    def done(self, result: str = "done") -> None:
        """End the line."""
        print(
            f"{chr(13) + chr(27) + '[K' if self._live else ''}{self._title}: {result}, {self._elapsed()}",
            flush=True,
        )

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started_s), 60)
        return f"{minutes}:{seconds:02d}"


def run_step(title: str, command: list[str], log_file: Path, folder: Path | None = None) -> None:
    """Run `command` in `folder`, show the last line of its output, append it all to `log_file`.

    Raises `SetupError` if it fails.
    """
    progress = Progress(title)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.show(last_line(output.fileno()))
        except BaseException:
            process.terminate()
            process.wait()
            raise
        output.seek(0)
        text = output.read()
    with log_file.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n{text}\n")
    if process.returncode != 0:
        progress.done("failed")
        raise SetupError(f"{title} failed: {explain_failure(text, log_file)}")
    progress.done()


def last_line(descriptor: int) -> str:
    """The last non-empty line of a file that is being written."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 4096, max(0, size - 4096)).decode("utf-8", "replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", tail) if line.strip()]
    return lines[-1] if lines else ""


def explain_failure(output: str, log_file: Path) -> str:
    """What to do about a failed pip run with this `output`, all of which is in `log_file`."""
    for pattern, advice in CAUSES:
        if re.search(pattern, output):
            return advice
    errors = re.findall(r"^ERROR: (.*)", output, re.MULTILINE)
    return f"{errors[-1] if errors else 'a command failed'}; see {log_file}."
