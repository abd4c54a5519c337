from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openai_gateway.cli.errors import CliError, PortInUse, ServerFailed
from openai_gateway.cli.processes import ServerProcess, bind_listener, exit_on_signals, free_port

HEALTHY = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
PARENT = """
import os, signal, sys
from pathlib import Path
from openai_gateway.cli.processes import ServerProcess
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
command = [sys.executable, "-c", "import time; time.sleep(600)"]
with ServerProcess(command, health_url="http://127.0.0.1:1/", log_path=Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
"""


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return met


def is_gone(pid: int) -> bool:
    """Whether no process `pid` runs (one that is dead and not yet collected does not count)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def server_of(
    code: str, log_path: Path, *arguments: str, port: int = 1, grace_s: float = 5.0
) -> ServerProcess:
    command = [sys.executable, "-c", code, *arguments]
    url = f"http://127.0.0.1:{port}/health"
    return ServerProcess(command, health_url=url, log_path=log_path, name="test server", grace_s=grace_s)


def test_ready_then_stopped(tmp_path: Path) -> None:
    """A server is ready once its health check answers, and gone once the context is left."""
    port, may_listen = free_port(), tmp_path / "may-listen"
    shown: list[tuple[float, str]] = []
    with server_of(HEALTHY, tmp_path / "logs" / "log", str(port), str(may_listen), port=port) as server:
        assert not server.is_ready()
        may_listen.touch()
        server.wait_ready(60.0, lambda elapsed_s, line: shown.append((elapsed_s, line)), poll_s=0.02)
        assert server.is_ready()
        assert server.is_running()
        assert server.base_url == f"http://127.0.0.1:{port}"
        assert server.last_log_lines() == ["listening"]
        pid = server.pid
    assert is_gone(pid)
    assert not server.is_running()
    assert {line for _, line in shown} <= {"", "listening"}


def test_death_while_starting_shows_the_log(tmp_path: Path) -> None:
    """A server that dies at start: exit code, log file and last lines are in the error."""
    code = "import sys; print('loading'); sys.exit('no such model')"
    with server_of(code, tmp_path / "log") as server, pytest.raises(ServerFailed) as caught:
        server.wait_ready(60.0)
    text = str(caught.value)
    assert text.startswith(
        f"The test server stopped while starting (exit code 1); its log is {tmp_path / 'log'}."
    )
    assert text.endswith("no such model")
    assert caught.value.log_path == tmp_path / "log"


def test_not_ready_in_time(tmp_path: Path) -> None:
    """A server that never answers is given up after the time limit, and stopped."""
    server = server_of("import time; time.sleep(600)", tmp_path / "log")
    with pytest.raises(ServerFailed, match="was not ready after 0 s"), server:
        server.wait_ready(0.1, poll_s=0.02)
    assert is_gone(server.pid)


def test_death_later_is_noticed(tmp_path: Path) -> None:
    """`check_running` is silent while the server lives and raises once it is gone."""
    with server_of("import time; time.sleep(600)", tmp_path / "log") as server:
        server.check_running()
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not server.is_running())
        with pytest.raises(ServerFailed, match=r"stopped unexpectedly \(exit code -9\)"):
            server.check_running()


def test_a_stubborn_server_is_killed_with_its_children(tmp_path: Path) -> None:
    """What ignores SIGTERM, and what it started, is gone after the grace time."""
    with server_of(STUBBORN, tmp_path / "log", grace_s=0.2) as server:
        assert eventually(lambda: server.last_log_lines() != [])
        grandchild = int(server.last_log_lines()[0])
    assert is_gone(server.pid)
    assert eventually(lambda: is_gone(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_parent_dies(tmp_path: Path, number: int) -> None:
    """However the parent ends, its server ends, too."""
    result = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path / "log"), str(number)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == -number
    assert eventually(lambda: is_gone(int(result.stdout)))


def test_stop_is_idempotent(tmp_path: Path) -> None:
    """Stopping twice, or what was never started, does nothing."""
    server = server_of("import time; time.sleep(600)", tmp_path / "log")
    server.stop()
    with server:
        server.stop()
        server.stop()


def test_log_lines_are_readable(tmp_path: Path) -> None:
    """Progress lines and vLLM's prefixes and colours are taken away; only the end is read."""
    log_path = tmp_path / "log"
    server = server_of("", log_path)
    assert server.last_log_lines() == []
    log_path.write_bytes(
        b"x" * 100_000
        + b"\n\x1b[0;36m(EngineCore pid=17)\x1b[0;0m INFO 11-22 01:02:03 [core.py:10] Loading \xff\n"
        + b"\n50%\r100%\r\n"
    )
    assert server.last_log_lines(3) == ["Loading \N{REPLACEMENT CHARACTER}", "50%", "100%"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_contexts_in_order(number: int) -> None:
    """SIGTERM and SIGHUP unwind the stack with exit code 128 + number; handlers are put back."""
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught, exit_on_signals():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before


def test_busy_port_is_named() -> None:
    """A port that somebody listens on gives one sentence with the port and the flag."""
    with bind_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"^Port {port} on .* is in use: choose another with --port\.$"):
            bind_listener("127.0.0.1", port)


def test_listener_accepts_at_once() -> None:
    """Clients can connect as soon as the listener is bound."""
    with bind_listener("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=30).close()


def test_free_port_is_free() -> None:
    """The port can be bound right away."""
    port = free_port()
    with bind_listener("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port


def test_address_of_another_machine() -> None:
    """An address that is not this machine's gives a sentence that names --host."""
    with pytest.raises(CliError, match=r"^Cannot listen on 192\.0\.2\.1 .*--host\.$"):
        bind_listener("192.0.2.1", 0)
