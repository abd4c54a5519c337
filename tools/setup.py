"""Sets up `.venv` with uv from the pinned versions in `requirements/`, and renews or tests those versions.

`setup.py demo|all|lock|floor`, run by make with the system's Python, so it uses the standard library alone.
Quick when nothing changed since the last run. Exits 1 with one sentence when something is missing.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
STAMP = VENV / ".pipesd-setup"
LOG = VENV / "setup.log"
LLAMA_OPTIONS = ROOT / "tools" / "llama_cpp.cmake"
LOCKS = {"demo": "requirements/demo.txt", "all": "requirements/test.txt"}
EXTRAS = {"demo": ("draft", "cloud-cpu", "demo"), "all": ("all-cpu", "demo", "dev")}
OVERRIDES = ["--override", "requirements/overrides.txt", "--excludes", "requirements/excludes.txt"]
FLOORS = {"edge,demo,otel": ("edge_agent", "openai_gateway"), "cloud-cpu,demo": ("pipesd_vllm",)}
"""Extras whose stated minimum versions are tested together, and the packages that have to work with them."""

MIN_PYTHON = (3, 11)
MAX_PYTHON = (3, 14)  # vLLM 0.32 has no build for later ones
COMPILERS = ("c++", "g++", "clang++")
NEEDED_GB = 6  # the environment and uv's cache share 5; unpacking needs room for a while

PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
}
"""pip's settings of how to reach packages: uv's variable, and what separates several values in it."""

# What pip and uv print when they fail, and what to do about it. The first that matches counts.
CAUSES = (
    (r"No space left on device", "the disk is full: free some gigabytes, then run it again."),
    (
        r"NewConnectionError|Name or service not known|[Nn]ame resolution|Network is unreachable|ProxyError"
        r"|error sending request|dns error|Failed to fetch",
        "the package index cannot be reached: check the network or proxy, then run it again.",
    ),
    (
        r"Because (?:there is no version of )?torch\b",
        "the package index has no CPU build of torch for this Python: name one that has to pip "
        "(PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), then run it again.",
    ),
    (
        r"Failed (?:to build `?|building wheel for )llama.cpp.python",
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


def check_compiler(path: str | None = None, compiler: str | None = os.environ.get("CXX")) -> None:
    """Raise `SetupError` if there is no C++ compiler on `path` (default: PATH)."""
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
            "free some space, then run it again."
        )


def uv_environment(pip_config: str, environment: dict[str, str]) -> dict[str, str]:
    """`environment` with how pip reaches packages (`pip config list`) said to uv, which does not read it.

    What the environment says to uv itself stays. Where pip names no place beside its index, torch's CPU build
    comes from the place that uv knows.
    """
    sections: dict[str, dict[str, str]] = {}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if name in PIP_TO_UV:
            sections.setdefault(section, {})[name] = str(ast.literal_eval(value))
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # in pip's order: the later wins
        settings |= sections.get(section, {})

    translated: dict[str, str] = {}
    for name, value in settings.items():
        variable, separator = PIP_TO_UV[name]
        translated[variable] = separator.join(value.split())
    if "UV_INDEX" in translated or "UV_FIND_LINKS" in translated:
        translated["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's own: the best of all places
    else:
        translated["UV_TORCH_BACKEND"] = "cpu"
    translated["UV_NO_PROGRESS"] = "1"
    return translated | environment


def with_links(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """`environment`, with `folder` beside the places where uv looks for wheels; a flag would replace them."""
    places = [str(folder), environment.get("UV_FIND_LINKS")]
    return environment | {"UV_FIND_LINKS": ",".join(filter(None, places))}


def llama_build(environment: dict[str, str], cpu_flags: str) -> tuple[Path, dict[str, str]]:
    """How to compile what is used of llama.cpp: the folder where the wheel is kept, and the environment.

    The wheel is tuned to this CPU, so the folder's name depends on what the compiler depends on. uv's own
    cache does not do: where an index says nothing of how long its answers hold, uv compiles anew each time.
    """
    version = pinned("llama-cpp-python")
    wanted = ["-DLLAVA_BUILD=OFF", *environment.get("CMAKE_ARGS", "").split()]
    options = LLAMA_OPTIONS.read_text(encoding="utf-8")
    depends_on = [version, *wanted, options, cpu_flags, platform.machine()]
    depends_on += [environment.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")]
    key = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cmake_args = " ".join([*wanted, f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={LLAMA_OPTIONS}"])
    return cache / "pipesd" / "wheels" / key, environment | {"CMAKE_ARGS": cmake_args}


def compile_llama() -> tuple[Path, Step | None]:
    """The folder of the wheel, and the compilation that goes on if the wheel is not there yet."""
    folder, environment = llama_build(dict(os.environ), cpu_flags())
    if list(folder.glob("*.whl")):
        return folder, None
    # pip's own cache may have a wheel that was compiled with other CMAKE_ARGS.
    command = [*PIP, "wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", str(folder.with_suffix(".new"))]
    title = "Compiling llama.cpp (once on this machine, some minutes)"
    return folder, Step(title, [*command, pinned("llama-cpp-python")], VENV / "llama.log", environment)


def keep_llama(folder: Path, compiling: Step | None) -> None:
    """Wait for the wheel and keep it. Raises `SetupError`."""
    if compiling is not None:
        compiling.wait()
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in folder.with_suffix(".new").glob("*.whl"):
            os.replace(wheel, folder / wheel.name)  # a wheel is there as a whole or not at all
        shutil.rmtree(folder.with_suffix(".new"))


def cpu_flags() -> str:
    """The instruction sets of this machine's CPU, as far as the system tells."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join(sorted(found[1].split())) if found else ""


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
        text = f"{self._title} ({self._elapsed()}) {detail}"
        if self._live:
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(f"  {self._elapsed()} {detail[:150]}", flush=True)

    def done(self, result: str = "done") -> None:
        """End the line."""
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{self._title}: {result}, {self._elapsed()}", flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started_s), 60)
        return f"{minutes}:{seconds:02d}"


class Step:
    """A command that runs in the repository; its output is appended to `log_file`."""

    def __init__(
        self, title: str, command: list[str], log_file: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._title, self._log_file = title, log_file
        self._log = log_file.open("a+", encoding="utf-8", errors="replace")
        self._log.write(f"$ {' '.join(command)}\n")
        self._log.flush()
        self._start = self._log.tell()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
        )

    def wait(self) -> None:
        """Show the last line of its output until it ends. Raises `SetupError` if it fails."""
        progress = Progress(self._title)
        try:
            while self._process.poll() is None:
                time.sleep(0.1)
                progress.show(last_line(self._output()))
        except BaseException:
            self.stop()
            raise
        text = self._output()
        self._log.close()
        if self._process.returncode != 0:
            progress.done("failed")
            raise SetupError(f"{self._title} failed: {explain_failure(text, self._log_file)}")
        progress.done()

    def stop(self) -> None:
        """End it, if it still runs."""
        self._process.terminate()
        self._process.wait()

    def _output(self) -> str:
        self._log.seek(self._start)
        return self._log.read()


def run_step(
    title: str, command: list[str], log_file: Path, environment: dict[str, str] | None = None
) -> None:
    """Run `command` and wait for it, see `Step`. Raises `SetupError` if it fails."""
    Step(title, command, log_file, environment).wait()


def last_line(output: str) -> str:
    """The last non-empty line."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def explain_failure(output: str, log_file: Path) -> str:
    """What to do about a failed run of pip or uv with this `output`, all of which is in `log_file`."""
    for pattern, advice in CAUSES:
        if re.search(pattern, output):
            return advice
    errors = re.findall(r"^\s*(?:ERROR:|error:|cause:|\N{MULTIPLICATION SIGN}) (.*)", output, re.MULTILINE)
    return f"{errors[-1] if errors else 'a command failed'}; see {log_file}."


def pinned(package: str) -> str:
    """The package with its pinned version, as pip takes it."""
    text = (ROOT / LOCKS["all"]).read_text(encoding="utf-8")
    found = re.search(rf"^{package}==[^\s;]+", text, re.MULTILINE)
    return found[0] if found else package


def distributions() -> list[Path]:
    """The folders of this repository's own distributions: the product, and the benchmarks' if it is one."""
    return [folder for folder in (ROOT, ROOT / "benchmarks") if (folder / "pyproject.toml").exists()]


def wanted_stamp(level: str) -> str:
    """What `.venv` is made from: it changes when something has to be installed."""
    files = [ROOT / LOCKS[level], LLAMA_OPTIONS, *(folder / "pyproject.toml" for folder in distributions())]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    return f"{level} {digest}"


def prepare_uv() -> dict[str, str]:
    """Make `.venv` with the pinned uv if it is not there; returns uv's environment. Raises `SetupError`."""
    works = PYTHON.exists() and not subprocess.call(
        [*PIP, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if not works:  # also when making it was interrupted
        check_venv_module()
        progress = Progress("Creating .venv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        progress.done()
    run_step("Installing uv", [*PIP, "install", pinned("uv")], LOG)
    config = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    return uv_environment(config, dict(os.environ))


def install(level: str) -> None:
    """Bring `.venv` up to `level`. Raises `SetupError`."""
    fitting = {wanted_stamp(level), wanted_stamp("all")}
    if STAMP.exists() and PYTHON.exists() and STAMP.read_text(encoding="utf-8") in fitting:
        return
    check_compiler()
    for folder in (ROOT, Path(tempfile.gettempdir())):
        check_disk(folder, NEEDED_GB if folder == ROOT and not STAMP.exists() else 1)
    STAMP.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    environment = prepare_uv()
    folder, compiling = compile_llama()
    exact = ["--exact"] if level == "all" else []  # the demo does not take away what tests need
    folders = distributions() if level == "all" else [ROOT]
    own = [part for folder in folders for part in ("--editable", str(folder))]
    command = [str(UV), "pip", "install", "--python", str(PYTHON), "--no-deps"]
    try:
        with tempfile.TemporaryDirectory() as temporary:
            rest = Path(temporary, "requirements.txt")
            lines = (ROOT / LOCKS[level]).read_text(encoding="utf-8").splitlines(keepends=True)
            rest.write_text("".join(line for line in lines if not line.startswith("llama-cpp-python==")))
            title = "Installing packages" + (" (llama.cpp is compiled meanwhile)" if compiling else "")
            run_step(title, [*command, *exact, "--requirement", str(rest), *own], LOG, environment)
    except BaseException:
        if compiling is not None:
            compiling.stop()
        raise
    keep_llama(folder, compiling)
    wheels = [str(wheel) for wheel in folder.glob("*.whl")]
    again = ["--reinstall-package", "llama-cpp-python"]  # one of the same version may be compiled otherwise
    run_step("Installing llama.cpp", [*command, *again, *wheels], LOG, environment)
    STAMP.write_text(wanted_stamp(level), encoding="utf-8")


def build_models() -> None:
    """Build the embedded target model if it is not there; says itself what it does."""
    command = [str(PYTHON), "-m", "pipesd_vllm.launch.embedded"]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SetupError("The embedded model is not ready: the line above says why.")


def lock() -> None:
    """Renew the pinned versions: for all supported Pythons and systems, without indexes or addresses."""
    import tomllib  # not at the top: Python before 3.11 gets its sentence instead of a traceback

    environment = prepare_uv()
    projects = {}
    for folder in distributions():
        projects[folder] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    command = [str(UV), "pip", "compile", "--universal", "--python-version", ".".join(map(str, MIN_PYTHON))]
    command += ["--upgrade", "--no-annotate", "--no-header", *OVERRIDES]
    command += [f"--no-emit-package={project['name']}" for project in projects.values()]
    for level in ("all", "demo"):  # the demo's versions are the tests' versions
        with tempfile.TemporaryDirectory() as temporary:
            own = Path(temporary, "own.txt")
            for folder, project in projects.items() if level == "all" else [(ROOT, projects[ROOT])]:
                extras = [
                    extra for extra in EXTRAS[level] if extra in project.get("optional-dependencies", {})
                ]
                with own.open("a", encoding="utf-8") as file:
                    file.write(f"{project['name']}[{','.join(extras)}] @ {folder.as_uri()}\n")
            limits = ["--constraint", LOCKS["all"]] if level == "demo" else []
            sources = [str(own), "requirements/extra.txt", *limits, "--output-file", LOCKS[level]]
            run_step(f"Resolving {LOCKS[level]}", [*command, *sources], LOG, environment)


def floor() -> None:
    """Install the stated minimum versions in a throw-away environment and run the unit tests with them."""
    environment = prepare_uv()
    folder, compiling = compile_llama()
    keep_llama(folder, compiling)
    environment = with_links(environment, folder)
    editable = [f"--editable={folder}" for folder in distributions()]
    for extras, packages in FLOORS.items():
        with tempfile.TemporaryDirectory(prefix="pipesd-floor-") as scratch:
            pins, python = f"{scratch}/floor.txt", f"{scratch}/venv/bin/python"
            compile_pins = [str(UV), "pip", "compile", "--resolution", "lowest-direct", "pyproject.toml"]
            compile_pins += [f"--extra={extra}" for extra in extras.split(",")]
            compile_pins += [*OVERRIDES, "--no-annotate", "--no-header", "--output-file", pins]
            run_step(f"Resolving the minima of {extras}", compile_pins, LOG, environment)
            run_step("Creating an environment", [str(UV), "venv", f"{scratch}/venv"], LOG, environment)
            pip = [str(UV), "pip", "install", "--python", python]
            run_step("Installing them", [*pip, "--no-deps", "-r", pins, *editable], LOG, environment)
            tools = ["pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis"]
            run_step("Installing pytest", [*pip, *OVERRIDES, "-c", pins, *tools], LOG, environment)
            tests = [str(Path("tests/unit", package)) for package in packages]
            if subprocess.run(
                [python, "-m", "pytest", "-W", "default", "-m", "not engine", *tests], cwd=ROOT, check=False
            ).returncode:
                raise SetupError(f"The minimum versions of {extras} do not hold.")


def main(arguments: list[str]) -> int:
    """Do what is asked for."""
    try:
        check_python(sys.version_info[:3])
        if arguments == ["lock"]:
            lock()
        elif arguments == ["floor"]:
            floor()
        else:
            (level,) = arguments
            install(level)
            build_models()
    except SetupError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
