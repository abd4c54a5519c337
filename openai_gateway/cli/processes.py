"""A server as a child process that never outlives its parent, and ports for it to listen on."""

from __future__ import annotations

import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from openai_gateway.cli import die_with_parent
from openai_gateway.cli.errors import CliError, PortInUse, ServerFailed

__all__ = [
    "Progress",
    "ServerProcess",
    "bind_listener",
    "bind_unix",
    "exit_on_signals",
    "free_port",
]

Progress = Callable[[float, str], None]
"""Gets the seconds waited so far and the server's last log line."""

_PROBE_TIMEOUT_S: Final = 2.0
_STARTING_GRACE_S: Final = 2.0
_TAIL_BYTES: Final = 64 * 1024
_SENTENCE: Final = "pipesd serve: "
"""Start of the line in which `pipesd serve` says why it refuses to start."""
_NOISE: Final = re.compile(
    r"\x1b\[[0-9;]*m"  # colours
    r"|^\([^)]*pid=\d+\) "  # vLLM's process names
    r"|^[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^]]*\] "  # its level, time and source line
)


class ServerProcess:
    """Runs `command` in a process group of its own while the context is open.

    `health_url` answers 200 once the server is ready. What it prints goes to `log_path`, which is
    overwritten. `env` replaces the whole environment. Leaving the context sends SIGTERM and, `grace_s`
    later (2 s for a server that was never ready), SIGKILL to the whole group. If this process dies
    without leaving it, Linux sends the child SIGTERM; that happens also when the *thread* that
    entered the context ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        health_url: str,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        name: str = "server",
        grace_s: float = 15.0,
    ) -> None:
        self.command = tuple(command)
        self.health_url = health_url
        self.log_path = log_path
        self.name = name
        self._env = dict(os.environ if env is None else env)
        self._grace_s = grace_s
        self._was_ready = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id, also of the process group. Only while the context is open."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def base_url(self) -> str:
        """Scheme, host and port of the server, without a slash at the end."""
        url = urlsplit(self.health_url)
        return f"{url.scheme}://{url.netloc}"

    def __enter__(self) -> Self:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        bound = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *self.command]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                bound,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,  # the terminal's Ctrl-C is for us; we stop the child in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether the child is alive."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether the server answers its health check now."""
        url = urlsplit(self.health_url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", url.path or "/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_ready(
        self, timeout_s: float = 900.0, progress: Progress = lambda *_: None, poll_s: float = 0.25
    ) -> None:
        """Return once the server is ready. Raises `ServerFailed` if it stops or takes too long.

        The default is long because the first start of an engine may compile kernels.
        """
        started_s = time.monotonic()
        while not self.is_ready():
            self.check_running("while starting")
            elapsed_s = time.monotonic() - started_s
            if elapsed_s > timeout_s:
                self._fail(f"was not ready after {timeout_s:.0f} s")
            progress(elapsed_s, next(iter(self.last_log_lines(1)), ""))
            time.sleep(poll_s)
        self.check_running("while starting")  # or what answered is somebody else's server
        self._was_ready = True

    def check_running(self, when: str = "unexpectedly") -> None:
        """Raise `ServerFailed` with the last log lines if the child is gone."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._fail(f"stopped {when} (exit code {code})")

    def last_log_lines(self, count: int = 15) -> list[str]:
        """The last non-empty lines it printed, without colours and log prefixes."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        lines = (_readable(line) for line in re.split(r"[\r\n]+", text))
        return [line for line in lines if line][-count:]

    def stop(self) -> None:
        """End the child and its whole group. Idempotent; a second Ctrl-C skips the grace time."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self._grace_s if self._was_ready else min(self._grace_s, _STARTING_GRACE_S))
        finally:
            _kill_group(process.pid)
            process.wait()

    def _fail(self, what: str) -> None:
        last = self.last_log_lines()
        if last and last[-1].startswith(_SENTENCE):
            raise ServerFailed(last[-1].removeprefix(_SENTENCE), self.log_path)
        lines = "".join(f"\n  {line}" for line in last)
        tail = f" Its last lines:{lines}" if lines else ""
        raise ServerFailed(f"The {self.name} {what}; its log is {self.log_path}.{tail}", self.log_path)


def _readable(line: str) -> str:
    previous = None
    while line != previous:
        previous, line = line, _NOISE.sub("", line)
    return line.strip()


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody left; macOS says so by the second
        os.killpg(group, signal.SIGKILL)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit`, so that contexts are left in order. Main thread only."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def bind_listener(host: str, port: int) -> socket.socket:
    """A bound TCP socket that child processes do not inherit; port 0 picks a free one.

    Raises `PortInUse`, and `CliError` for an address that is not this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _explained(error, host, port) from error
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A bound Unix socket, which only this user may open; one that nobody listens on any more is replaced.

    Raises `CliError`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(ConnectionRefusedError, FileNotFoundError):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(path))
            raise CliError(f"Something listens on {path} already: name another with --unix-socket.")
        if path.is_socket():
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(128)
    except (OSError, CliError) as error:
        listener.close()
        if isinstance(error, CliError):
            raise
        raise CliError(f"The gateway cannot listen on {path}: {error.strerror or error}.") from error
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago; another process may take it first."""
    with bind_listener(host, 0) as listener:
        return int(listener.getsockname()[1])


def _explained(error: OSError, host: str, port: int) -> CliError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(host, port)
    if error.errno == errno.EACCES:
        return CliError(f"Port {port} needs administrator rights: choose one above 1023 with --port.")
    reason = f"Cannot listen on {host} ({error.strerror})"
    return CliError(f"{reason}: name an address of this machine with --host.")
