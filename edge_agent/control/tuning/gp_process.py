"""The Gaussian process in a process of its own.

In a thread it would hold up the tokens: importing PyTorch stalls an event loop for hundreds of milliseconds,
the first fit for a hundred. The process has one torch thread and low priority, and ending it gives its memory
back. One JSON line each way per suggestion; it ends with its standard input, so it never outlives the agent,
and after a minute without a question.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Final

import msgspec

from edge_agent.control.tuning.background import Solver
from edge_agent.control.tuning.search import Evaluation, Suggestion

__all__ = ["GpProcess", "GpProcessError", "serve"]

_TIMEOUT_S: Final = 60.0
"""The first suggestion includes importing PyTorch, perhaps from a slow disk."""
_IDLE_S: Final = 60
"""Without traffic there are no questions, and no need for hundreds of megabytes."""
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class GpProcessError(Exception):
    """The process ended, was too slow, or its own computation failed."""


class _Reply(msgspec.Struct):
    """Either of the two."""

    suggestion: Suggestion | None = None
    error: str = ""


class GpProcess:
    """A `Solver`: starts the process when it is first asked. `stop` may be called from any thread."""

    def __init__(
        self, num_dimensions: int, seed: int, command: Sequence[str] = (), timeout_s: float = _TIMEOUT_S
    ) -> None:
        # -P: a file called torch.py in the current directory must not be imported.
        python = (sys.executable, "-P", "-W", "ignore", "-m", __name__)
        self._command = (*(command or python), str(num_dimensions), str(seed))
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process, and it lives."""
        process = self._process
        return process is not None and process.poll() is None

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        """Blocks until the answer is there. Raises `GpProcessError`, `OSError`."""
        if not self.is_running:
            self.stop()
        process = self._started()
        too_slow = threading.Timer(self._timeout_s, process.kill)
        too_slow.start()
        try:
            reply = self._exchange(process, evaluations)
        except (OSError, ValueError) as error:  # ValueError: no reply, or the pipe was closed meanwhile
            self.stop()
            raise GpProcessError(f"no answer, exit status {process.returncode}") from error
        finally:
            too_slow.cancel()
        if reply.suggestion is None:
            raise GpProcessError(reply.error)
        return reply.suggestion

    def stop(self) -> None:
        """End the process, whatever it is doing; the next suggestion starts another. Safe to repeat."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what is left in the buffer has no reader
                    _pipe(pipe).close()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | _ENVIRONMENT,
                    start_new_session=True,  # Ctrl-C is for the agent
                )
            return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], evaluations: Sequence[Evaluation]) -> _Reply:
        requests = _pipe(process.stdin)
        requests.write(msgspec.json.encode(evaluations) + b"\n")
        requests.flush()
        return msgspec.json.decode(_pipe(process.stdout).readline(), type=_Reply)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def serve(requests: Iterable[bytes], replies: IO[bytes], make_solver: Callable[[], Solver]) -> None:
    """Answer each line of `requests` until they end; a failure is an answer, too."""
    solver: Solver | None = None
    for line in requests:
        try:
            solver = solver or make_solver()
            reply = _Reply(solver.suggest(msgspec.json.decode(line, type=list[Evaluation])))
        except Exception as error:  # imports, numerics: the agent has a way to go on without
            reply = _Reply(error=f"{type(error).__name__}: {error}")
        replies.write(msgspec.json.encode(reply) + b"\n")
        replies.flush()


def _until_idle(requests: IO[bytes], idle_s: int) -> Iterator[bytes]:
    """The lines of `requests`; the process ends when there is none for `idle_s`, where there are alarms."""
    alarm = getattr(signal, "alarm", lambda _seconds: None)
    alarm(idle_s)
    while line := requests.readline():
        alarm(0)
        yield line
        alarm(idle_s)


def _main() -> None:
    def make_solver() -> Solver:
        from edge_agent.control.tuning import gp

        gp.use_one_thread()
        return gp.GpProposer(int(sys.argv[1]), int(sys.argv[2]))

    with contextlib.suppress(AttributeError, OSError):
        os.nice(10)
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what a library prints must not get among the replies
        serve(_until_idle(sys.stdin.buffer, _IDLE_S), replies, make_solver)


if __name__ == "__main__":
    _main()
