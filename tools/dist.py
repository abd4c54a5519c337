"""Builds and checks what is published. Needs the standard library alone, as `setup.py`.

Builds wheel and sdist of both distributions into `dist/`, checks metadata and contents, installs the
product's wheel into clean environments, bare and with the `edge` extra, and runs the command there. Uploads
nothing. Exits 1 with one sentence when something is not as it should be.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import setup
from setup import ROOT, UV, SetupError

__all__ = ["main", "top_level", "unwanted_in_sdist"]

DIST = ROOT / "dist"
LOG = ROOT / "dist" / "dist.log"
TWINE = "twine>=6.1"
PACKAGES = {
    "pipesd": {"edge_agent", "openai_gateway", "pipesd_vllm"},
    "pipesd_bench": {"benchmarks"},
}
"""What each wheel holds at its top level beside its metadata: nothing else may land in site-packages."""
DATA = {
    "pipesd": {
        "edge_agent/py.typed",
        "openai_gateway/web/index.html",
        "openai_gateway/web/js/app.js",
        "openai_gateway/web/vendor/LICENSES.txt",
        "openai_gateway/web/vendor/languages/python.js",
    },
    "pipesd_bench": {"benchmarks/py.typed", "benchmarks/scenarios/fast-edge.toml"},
}
"""Files that no import would miss."""
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing answers there


def top_level(wheel: Path) -> set[str]:
    """First parts of the paths in `wheel`, its metadata left out."""
    with zipfile.ZipFile(wheel) as file:
        parts = {name.partition("/")[0] for name in file.namelist()}
    return {part for part in parts if not part.endswith(".dist-info")}


def unwanted_in_sdist(sdist: Path) -> set[str]:
    """Folders in `sdist` that belong to a machine and not to the source."""
    with tarfile.open(sdist) as file:
        parts = {part for name in file.getnames() for part in Path(name).parts[1:]}
    return parts & {".venv", ".git", "__pycache__", "build", "dist", ".pytest_cache"}


def build(environment: Mapping[str, str]) -> dict[str, Path]:
    """Wheels by the name they are installed under. Each is built from its sdist, as an index's user would."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for folder in setup.distributions():
        title = "the product" if folder == ROOT else "the benchmarks"
        setup.run_step(
            f"Building {title}", [str(UV), "build", "--out-dir", str(DIST), str(folder)], LOG, environment
        )
    return {wheel.name.partition("-")[0]: wheel for wheel in DIST.glob("*.whl")}


def check_contents(wheels: Mapping[str, Path]) -> None:
    """Raise `SetupError` if a wheel lacks something, or brings what is not its own."""
    if wheels.keys() != PACKAGES.keys():
        raise SetupError(f"Wheels of {sorted(PACKAGES)} were to be built, these are of {sorted(wheels)}.")
    for name, wheel in wheels.items():
        if (found := top_level(wheel)) != PACKAGES[name]:
            raise SetupError(f"{wheel.name} holds {sorted(found)} instead of {sorted(PACKAGES[name])}.")
        with zipfile.ZipFile(wheel) as file:
            if missing := DATA[name] - set(file.namelist()):
                raise SetupError(f"{wheel.name} lacks {', '.join(sorted(missing))}.")
    for sdist in DIST.glob("*.tar.gz"):
        if found := unwanted_in_sdist(sdist):
            raise SetupError(f"{sdist.name} holds {sorted(found)}.")


def check_installed(wheel: Path, extras: str, environment: dict[str, str]) -> None:
    """Install `wheel` with `extras` into a clean environment and run the command. Raises `SetupError`."""
    what = f"{wheel.name}{extras}"
    with tempfile.TemporaryDirectory(prefix="pipesd-dist-") as folder:
        venv = Path(folder, "venv")
        setup.run_step(
            "Creating a clean environment",
            [str(UV), "venv", "--python", sys.executable, str(venv)],
            LOG,
            environment,
        )
        pip = [
            str(UV),
            "pip",
            "install",
            "--python",
            str(venv / "bin" / "python"),
            *setup.OVERRIDES,
        ]
        setup.run_step(f"Installing {what}", [*pip, f"{wheel}{extras}"], LOG, environment)
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIPESD_", "PYTHON"))
        }
        clean |= dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"), folder)

        def expect(code: int, text: str, *command: str) -> tuple[float, float]:
            """Seconds that the command took: by the clock, of CPU time."""
            started_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [str(venv / "bin" / "pipesd"), *command],
                cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            shown = done.stdout + done.stderr
            if done.returncode != code or text not in shown or "Traceback" in shown:
                raise SetupError(
                    f"`pipesd {' '.join(command)}` of {what} ended with {done.returncode} instead of {code}, "
                    f"or does not say {text!r}: {shown.strip()}"
                )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return time.monotonic() - started_s, cpu_s

        version = wheel.name.split("-")[1]
        expect(0, f"pipesd {version}", "--version")
        help_s, cpu_s = min(expect(0, "edge", "--help") for _ in range(3))
        expect(2, "cloud_url is not set", "doctor")
        expect(1, NOBODY, "doctor", "--cloud", NOBODY, "--connect-timeout-s", "2")
        expect(
            1,
            NOBODY,
            "edge",
            "--cloud",
            NOBODY,
            "--connect-timeout-s",
            "2",
            "--fallback",
            "error",
            "--port",
            "0",
        )
        expect(1, "pip install 'pipesd[cloud]'", "serve", "some/model")
        if not extras:
            expect(1, "pip install 'pipesd[all]'", "up")
            expect(1, "pip install 'pipesd[all-cpu,demo]'", "demo")
        print(f"  {what}: --version, --help, doctor, edge, serve do as they should")
        print(f"  --help takes {help_s:.2f} s, {cpu_s:.2f} s of it CPU time (best of 3)")


def main() -> int:
    """Do it all; what the build tools print is in `dist/dist.log`."""
    try:
        setup.check_python(sys.version_info[:3])
        environment = setup.prepare_uv()
        wheels = build(environment)
        check_contents(wheels)
        files = [str(file) for kind in ("*.tar.gz", "*.whl") for file in sorted(DIST.glob(kind))]
        twine = [str(UV), "tool", "run", "--from", TWINE, "twine", "check", "--strict", *files]
        setup.run_step("Checking metadata and descriptions", twine, LOG, environment)
        check_installed(wheels["pipesd"], "", environment)
        try:
            setup.check_compiler()
        except SetupError as error:
            print(f"  not installed with [edge]: {error}")
        else:
            folder, compiling = setup.compile_llama()
            setup.keep_llama(folder, compiling)
            check_installed(wheels["pipesd"], "[edge]", setup.with_links(environment, folder))
    except SetupError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for file in files:
        print(f"{Path(file).stat().st_size / 1e3:8.0f} kB  {Path(file).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
