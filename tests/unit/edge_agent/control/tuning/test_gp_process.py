"""The Gaussian process in a process of its own."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_agent.control.tuning.gp_process import GpProcess, GpProcessError, serve
from edge_agent.control.tuning.search import Evaluation, SobolProposer, Suggestion

SEEN = [Evaluation((0.1 * i, 0.5, 0.2, 0.7), 20.0 + i, 64, 0.1) for i in range(6)]

ECHO = """
    import json, sys
    for line in sys.stdin:
        costs = [e["cost_ms"] for e in json.loads(line)]
        print(json.dumps({"suggestion": {"point": [0.5], "best": None, "estimates": costs}}), flush=True)
"""


@pytest.fixture
def make(tmp_path: Path):
    """A `GpProcess` that runs a script instead of BoTorch."""
    made = []

    def build(script: str, timeout_s: float = 60.0) -> GpProcess:
        path = tmp_path / "solver.py"
        path.write_text(textwrap.dedent(script))
        made.append(GpProcess(4, 0, (sys.executable, str(path)), timeout_s))
        return made[-1]

    yield build
    for process in made:
        process.stop()


def test_one_process_answers_again_and_again(make) -> None:
    """Evaluations go there and suggestions come back, without a new start each time."""
    process = make(ECHO)
    for n in (6, 3):
        answer = process.suggest(SEEN[:n])
        assert answer == Suggestion((0.5,), None, tuple(e.cost_ms for e in SEEN[:n]))


@pytest.mark.parametrize(
    "script",
    ["raise SystemExit(3)", "print('no JSON', flush=True); input()", "import os; os.kill(os.getpid(), 9)"],
    ids=["exit", "babble", "killed"],
)
def test_a_broken_process_is_an_error_each_time(make, script: str) -> None:
    """No hang, no stale answer: every suggestion tries with a new process."""
    process = make(script)
    for _ in range(2):
        with pytest.raises(GpProcessError):
            process.suggest(SEEN)


def test_a_process_that_went_away_is_replaced(make) -> None:
    """It ends by itself when it has nothing to do; the next suggestion starts another."""
    process = make(ECHO + "        break")
    for _ in range(2):
        assert process.suggest(SEEN).point == (0.5,)
        while process.is_running:
            pass
    assert process.suggest(SEEN).point == (0.5,)


def test_a_process_that_hangs_is_killed(make) -> None:
    """After the time limit the search goes on without it."""
    with pytest.raises(GpProcessError):
        make("import time; time.sleep(1000)", timeout_s=0.2).suggest(SEEN)


def test_a_missing_interpreter_is_an_error_of_the_system() -> None:
    """What cannot be started is reported like any other failure."""
    with pytest.raises(OSError, match="nowhere"):
        GpProcess(4, 0, ("/nowhere/python",)).suggest(SEEN)


def test_stop_ends_a_computation_from_another_thread(make) -> None:
    """The agent does not wait for a fit when it ends; a later suggestion starts afresh."""
    process = make("import sys, time; print('{', end='', flush=True); time.sleep(1000)")
    errors: list[GpProcessError] = []

    def ask() -> None:
        try:
            process.suggest(SEEN)
        except GpProcessError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        process.stop()
        thread.join(0.05)
    assert len(errors) == 1
    process.stop()


class Half:
    """Answers a question of more than one evaluation."""

    def suggest(self, evaluations: Sequence[Evaluation]) -> Suggestion:
        if len(evaluations) < 2:
            raise ArithmeticError("too few")
        return Suggestion((0.5,) * 4)


def served(*lines: bytes, make_solver=Half) -> list[dict[str, object]]:
    replies = io.BytesIO()
    serve(lines, replies, make_solver)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_a_failed_suggestion_is_an_answer() -> None:
    """The process survives bad numbers and bad requests, and says what was wrong."""
    good = json.dumps([{"point": [0.5] * 4, "cost_ms": 1, "num_tokens": 1, "relative_error": 0.1}] * 2)
    replies = served(b"[]", b"nonsense", good.encode())
    assert [bool(reply["error"]) for reply in replies] == [True, True, False]
    assert "too few" in str(replies[0]["error"])


def test_an_idle_process_ends() -> None:
    """It does not keep its memory for a search that nobody goes on with."""
    code = (
        "import sys; from edge_agent.control.tuning import gp_process as g; "
        "list(g._until_idle(sys.stdin.buffer, 1))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.wait(30) == -signal.SIGALRM


def test_a_broken_installation_is_an_answer() -> None:
    """An import that fails is reported, not died of."""

    def broken() -> Half:
        raise ImportError("libtorch_cpu.so")

    (reply,) = served(b"[]", make_solver=broken)
    assert "libtorch_cpu.so" in str(reply["error"])


def test_the_real_process_suggests_with_botorch() -> None:
    """Through pipe, import and fit: an answer within the cube, with an estimate per evaluation."""
    pytest.importorskip("botorch")
    process = GpProcess(4, 0)
    try:
        suggestion = process.suggest(SEEN)
    finally:
        process.stop()
    assert suggestion.best is not None
    assert all(0.0 <= x <= 1.0 for x in (*suggestion.point, *suggestion.best))
    assert len(suggestion.estimates or ()) == len(SEEN)
    assert suggestion != SobolProposer(4, 0).suggest(SEEN)


def test_the_agent_itself_never_imports_torch() -> None:
    """Importing everything of the tuner but the model costs neither its seconds nor its memory."""
    code = (
        "import sys, edge_agent.control.tuning.registry; "
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
