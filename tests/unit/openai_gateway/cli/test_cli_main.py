"""The command line as a user meets it: run as a process.

All but one come from one process that has imported the command line: that takes longer than most commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from openai_gateway.cli.options import documentation, flags
from openai_gateway.cli.processes import bind_listener

HEAVY = (
    "asyncio",
    "openai",
    "uvicorn",
    "fastapi",
    "httpx",
    "pydantic",
    "numpy",
    "llama_cpp",
    "vllm",
    "torch",
)

FOLDERS = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")


PARENT = """
import json, os, sys

import openai_gateway.cli.edge, openai_gateway.cli.main, openai_gateway.cli.up

for line in sys.stdin:
    arguments, environment, *outputs = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.clear()
        os.environ.update(environment)
        for number, path in enumerate((os.devnull, *outputs)):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
            os.dup2(os.open(path, flags), number)
        sys.argv = ["pipesd", *arguments]
        openai_gateway.cli.main.main()
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def parent() -> Iterator[subprocess.Popen[str]]:
    """Forks a process for each line that it is told: arguments, environment, files for stdout and stderr."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        yield parent
        assert parent.stdin is not None
        parent.stdin.close()


@pytest.fixture
def pipesd(tmp_path: Path, parent: subprocess.Popen[str]) -> Runner:
    return Runner(tmp_path, parent)


class Runner:
    """Runs `pipesd ARGUMENTS...` with an empty configuration and none of the user's notes or caches."""

    def __init__(self, home: Path, parent: subprocess.Popen[str]) -> None:
        self._outputs = home / "stdout", home / "stderr"
        self._parent = parent
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIPESD_")}
        self.environment = {**kept, **dict.fromkeys(FOLDERS, str(home)), "COLUMNS": "200"}

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        told = [arguments, {**self.environment, **environment}, *map(str, self._outputs)]
        print(json.dumps(told), file=self._parent.stdin, flush=True)
        code = int(self._parent.stdout.readline())
        stdout, stderr = (output.read_text(encoding="utf-8") for output in self._outputs)
        return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def test_version() -> None:
    """`python -m` with `--version` prints the installed version."""
    command = [sys.executable, "-m", "openai_gateway.cli.main", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"pipesd {version('pipesd')}\n"


def test_help_lists_all_commands(pipesd: Runner) -> None:
    """`pipesd --help` knows the built-in commands and the plugin's."""
    result = pipesd("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("serve", "edge", "up", "demo", "chat", "bench"))


def test_help_is_quick() -> None:
    """Loading the command line imports none of the heavy libraries."""
    code = f"import sys, openai_gateway.cli.main; print([n for n in {HEAVY} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_setting_that_makes_no_sense(pipesd: Runner) -> None:
    """A bad setting: one sentence on stderr, no traceback, exit code 2."""
    result = pipesd("edge", "--cloud", "nowhere")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "pipesd: cloud_url (from --cloud): not a URL such as http://gpu-server:8000.\n"


def test_debug_shows_the_traceback(pipesd: Runner) -> None:
    """The same failure with --debug, or PIPESD_DEBUG=1, shows where it comes from."""
    for result in (pipesd("--debug", "edge"), pipesd("edge", PIPESD_DEBUG="1")):
        assert result.returncode == 2
        assert "Traceback" in result.stderr
        assert "ConfigError" in result.stderr


def test_a_busy_port(pipesd: Runner) -> None:
    """A busy gateway port is named together with the flag, before anything is started."""
    with bind_listener("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        result = pipesd("edge", "--cloud", "http://127.0.0.1:9", "--port", port)
    assert result.returncode == 1
    assert result.stderr == f"pipesd: Port {port} on 127.0.0.1 is in use: choose another with --port.\n"


def test_an_open_gateway_is_refused(pipesd: Runner) -> None:
    """Listening beyond loopback without a key: one sentence with both ways out, before anything starts."""
    result = pipesd("edge", "--cloud", "http://127.0.0.1:9", "--host", "0.0.0.0", "--port", "0")
    assert result.returncode == 2
    assert "--gateway-api-key" in result.stderr
    assert "--allow-keyless-network" in result.stderr
    assert result.stderr.count("\n") == 1


def test_names_come_from_repeated_flags_or_the_environment(pipesd: Runner) -> None:
    """Each of several flags counts, and flags that are not given leave the environment's names alone."""
    edge = ("edge", "--cloud", "http://127.0.0.1:9", "--port", "0")
    for result in (
        pipesd(*edge, "--allowed-host", "a.lan", "--allowed-host", "http://b.lan"),
        pipesd(*edge, PIPESD_ALLOWED_HOSTS="a.lan, http://b.lan"),
    ):
        assert result.returncode == 2
        assert "allowed_hosts: 'http://b.lan' is not a host" in result.stderr
    shown = pipesd("config", "show", PIPESD_ALLOWED_HOSTS="a.lan, b.lan").stdout
    assert "a.lan, b.lan" in shown


def test_an_unreachable_server(pipesd: Runner) -> None:
    """An edge agent whose server does not answer says so, naming it, and exits 1."""
    result = pipesd(
        "edge",
        "--cloud",
        "http://127.0.0.1:9",
        "--port",
        "0",
        "--connect-timeout-s",
        "2",
        "--fallback",
        "error",
    )
    assert result.returncode == 1
    assert "http://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def test_chat_without_a_gateway(pipesd: Runner) -> None:
    """`pipesd chat` with nothing running says how to start it."""
    result = pipesd("chat", "--url", "http://127.0.0.1:9/v1", "--message", "hello")
    assert result.returncode == 1
    assert result.stderr.startswith("pipesd: No gateway answers at http://127.0.0.1:9/v1")
    assert "pipesd up" in result.stderr


@pytest.mark.parametrize("arguments", [("bogus",), ("edge", "--bogus"), ("up", "--prot", "1")])
def test_misuse(pipesd: Runner, arguments: tuple[str, ...]) -> None:
    """An unknown command or flag is a usage error (2) that names it."""
    result = pipesd(*arguments)
    assert result.returncode == 2
    assert next(a for a in arguments if a in ("bogus", "--bogus", "--prot")) in result.stderr


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize(
    ("flag", "name", "told"),
    [
        ("--target", "depth-x99", "There is no target 'depth-x99' here: 'embedded' comes along"),
        ("--target", "/no/such", "There is no folder '/no/such' to serve: 'embedded' comes along"),
        (
            "--draft",
            "embeded",
            "draft model 'embeded' does not exist: give the path of a GGUF file, 'emb",
        ),
    ],
)
def test_models_that_do_not_exist(pipesd: Runner, flag: str, name: str, told: str) -> None:
    """A mistyped model is one sentence, without the log of a server that was never going to run."""
    result = pipesd("up", "--port", "0", flag, name)
    assert result.returncode == 1
    *progress, sentence = result.stderr.splitlines()
    assert sentence.startswith(f"pipesd: {told}"), result.stderr
    assert all(line.startswith("Starting the target server (") for line in progress), result.stderr
    assert progress == [] or flag == "--target"  # a draft does not wait for the server


def test_flags_are_made_of_the_settings(pipesd: Runner) -> None:
    """At 80 columns every command that reads settings names each flag, whole, with default and variable."""
    for command in (("edge",), ("up",), ("doctor",), ("config", "show")):
        text = pipesd(*command, "--help", COLUMNS="80").stdout
        assert max(map(len, text.splitlines())) <= 80
        words = text.split()
        for flag in flags().values():
            is_servers = flag.setting in ("cloud_url", "replicas", "other_targets", "ca_file", "api_key")
            assert (flag.names[0] in text) == (command != ("up",) or not is_servers), flag
        assert "auto|latency|balanced|offload" in words
        assert "PIPESD_MAX_WINDOW]" in words
        assert "'pipesd[otel]')" in text or "'pipesd[otel]');" in text


def test_the_documentation_of_the_settings() -> None:
    """`python -m openai_gateway.cli.options` prints what docs/settings.md has."""
    page = Path(__file__).parents[4] / "docs" / "settings.md"
    assert documentation() in page.read_text(encoding="utf-8")


def test_flags_are_read(pipesd: Runner) -> None:
    """A flag of each kind, and where the value comes from."""
    flags_of = ("--max-ahead", "7", "--no-tune", "--mode", "offload", "--allowed-host", "a", "--trace", "t")
    shown = pipesd("config", "show", *flags_of, PIPESD_MAX_WINDOW="5").stdout
    found = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    expected = {"max_ahead": "7", "tune": "False", "mode": "offload", "allowed_hosts": "a", "trace": "t"}
    assert {name: found[name] for name in expected} == {n: ["flag", v] for n, v in expected.items()}
    assert found["max_window"] == ["env", "5"]
    assert pipesd("edge", "--max-ahead", "many").returncode == 2
    assert "choose" in pipesd("edge", "--cloud", "http://x", "--policy", "none").stderr
