"""`pipesd trace`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner, Result

from edge_agent.sampling import DraftToken
from edge_agent.tracing import FileRecorder, SessionTrace
from openai_gateway.cli.errors import CliError
from openai_gateway.cli.main import app
from openai_gateway.cli.trace import MAX_SESSIONS
from pipesd_vllm.wire import Commit, Draft


def record(path: Path, *request_ids: str) -> None:
    """Per request: two drafts kept, three tokens in 100 ms, 20 ms each way, 40 ms of target."""
    recorder = FileRecorder(path)
    for request_id in request_ids:
        trace = SessionTrace(recorder)
        trace.started(5.000, request_id, 3, policy="pipesd", mode="offload")
        trace.opened(5.000, 100)
        trace.drafted(5.000, 5.010, 3, DraftToken(0, 0.9))
        trace.drafted(5.010, 5.020, 4, DraftToken(1, 0.8))
        trace.sent(5.020, Draft(1, 1, 3, 0, [0, 1]), 30)
        trace.committed(5.100, Commit(1, 3, [0, 1, 2], 1, 2, 2, 0.0, 40.0), 30)
        trace.ended(5.100, "stop")
    recorder.close()


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    record(path, "request-1", "request-2")
    return path


def run(*arguments: object) -> Result:
    environment = {"COLUMNS": "100", "NO_COLOR": "1"}
    result = CliRunner(env=environment).invoke(app, ["trace", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def cells(result: Result, name: str) -> list[str]:
    """The row that begins with `name`."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith(name)]
    return line.removeprefix(name).split()


def test_a_summary_lists_sessions_and_their_total(trace_file: Path) -> None:
    """Tokens, TPT, rounds, acceptance, passes and idle shares of each, and of all."""
    result = run(trace_file)
    assert result.exit_code == 0
    assert cells(result, "request-1") == ["3", "33.3", "1", "100.0%", "1", "0.33", "80.0%", "60.0%"]
    assert cells(result, "total") == ["6", "33.3", "2", "100.0%", "2", "0.33", "80.0%", "60.0%"]


def test_a_summary_says_where_the_time_went(trace_file: Path) -> None:
    """Milliseconds, share and what nothing else overlapped, summed over the sessions."""
    result = run(trace_file, "--request", "request-2")
    assert cells(result, "edge drafting") == ["20", "20.0%", "0"]
    assert cells(result, "uplink") == ["40", "40.0%", "20"]
    assert cells(result, "server queue") == ["0", "0.0%", "0"]
    assert cells(result, "target step") == ["40", "40.0%", "40"]
    assert cells(result, "downlink") == ["20", "20.0%", "20"]
    assert cells(result, "edge waiting") == ["80", "80.0%"]
    assert "request-1" not in result.stdout


def test_a_summary_fits_a_terminal(tmp_path: Path) -> None:
    """Long request ids give way, figures do not."""
    path = tmp_path / "trace"
    record(path, "chatcmpl-" + 32 * "f")
    lines = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["trace", str(path)]).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    [row] = [line for line in lines if line.startswith("chatcmpl")]
    assert row.split()[1:] == ["3", "33.3", "1", "100.0%", "1", "0.33", "80.0%", "60.0%"]


def test_many_sessions_are_not_all_listed(tmp_path: Path) -> None:
    """The list is bounded and says so; the total counts all."""
    path = tmp_path / "trace"
    record(path, *(f"request-{i}" for i in range(MAX_SESSIONS + 5)))
    result = run(path)
    assert sum(line.startswith("request-") for line in result.stdout.splitlines()) == MAX_SESSIONS
    assert "25 sessions" in result.stdout
    assert cells(result, "total")[0] == "75"


def test_the_picture_is_written(trace_file: Path, tmp_path: Path) -> None:
    """With --html there is a page with both sessions, and a line that says so."""
    html = tmp_path / "out.html"
    result = run(trace_file, "--html", html)
    assert (result.exit_code, result.stdout) == (0, "")
    page = html.read_text()
    assert "request-1" in page
    assert "request-2" in page
    assert "open it in a browser" in result.stderr


def test_a_tokenizer_turns_ids_into_text(trace_file: Path, tmp_path: Path) -> None:
    """Texts of the ids that occur are in the page."""
    tokenizer, html = tmp_path / "tokenizer.json", tmp_path / "out.html"
    Tokenizer(WordLevel({"zero": 0, "one": 1, "two": 2}, unk_token="zero")).save(str(tokenizer))
    run(trace_file, "--html", html, "--tokenizer", tokenizer)
    assert '"texts":{"0":"zero","1":"one","2":"two"}' in html.read_text()


def test_lines_that_cannot_be_read_are_counted(trace_file: Path) -> None:
    """A damaged file is used as far as it goes."""
    trace_file.write_bytes(b"junk\n" + trace_file.read_bytes() + b'{"event":"sen')
    result = run(trace_file)
    assert cells(result, "total")[0] == "6"
    assert "Skipped 2 lines" in result.stderr


@pytest.mark.parametrize("html", [False, True])
def test_without_a_trace_there_is_one_sentence(tmp_path: Path, html: bool) -> None:
    """A missing file, one that is no trace, and a request that is not in it end with exit code 1."""
    junk, good = tmp_path / "junk", tmp_path / "good"
    junk.write_text("no\ntrace\n")
    record(good, "request-1")
    options = ["--html", tmp_path / "out.html"] if html else []
    for arguments, message in [
        ([tmp_path / "missing"], r"^Cannot read .*missing: No such file or directory\.$"),
        ([junk], r"^.*junk holds no trace: .*--trace FILE\.$"),
        ([good, "--request", "other"], r"^.*good holds no trace of a request other: .*\.$"),
    ]:
        with pytest.raises(CliError, match=message) as caught:
            run(*arguments, *options)
        assert caught.value.exit_code == 1
    assert not (tmp_path / "out.html").exists()


def test_files_that_cannot_be_used_are_named(trace_file: Path, tmp_path: Path) -> None:
    """A picture that cannot be written and a tokenizer that is none end with a sentence each."""
    with pytest.raises(CliError, match=r"Cannot write .*No such file"):
        run(trace_file, "--html", tmp_path / "missing" / "out.html")
    with pytest.raises(CliError, match="is not a tokenizer"):
        run(trace_file, "--html", tmp_path / "out.html", "--tokenizer", trace_file)
    with pytest.raises(CliError, match=r"Cannot read .*missing"):
        run(trace_file, "--html", tmp_path / "out.html", "--tokenizer", tmp_path / "missing")
