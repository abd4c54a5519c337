"""`pipesd config show`, `models`, `pull`, `ps` and shell completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openai_gateway.cli.main import app
from openai_gateway.cli.models import built_targets, size_text
from openai_gateway.cli.running import Running, alive, announced, list_running, write_state
from openai_gateway.cli.serve import served_at


def test_settings_have_their_origin(runner: CliRunner, tmp_path: Path) -> None:
    """Flag over environment over file over default, and keys are masked wherever they come from."""
    (file := tmp_path / "settings.toml").write_text(
        'draft = "a.gguf"\nmode = "offload"\napi_key = "secret-1"\n'
    )
    result = runner.invoke(
        app,
        ["config", "show", "--json", "--config", str(file), "--cloud", "http://gpu:1"],
        env={"PIPESD_MODE": "latency", "PIPESD_GATEWAY_API_KEY": "secret-2"},
    )
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["cloud_url"] == {"value": "http://gpu:1", "origin": "flag"}
    assert shown["mode"] == {"value": "latency", "origin": "env"}
    assert shown["draft"] == {"value": "a.gguf", "origin": "file"}
    assert shown["listen_port"] == {"value": 8650, "origin": "default"}
    assert shown["gateway_api_key"]["origin"] == "env"
    assert shown["api_key"] == {"value": "********", "origin": "file"}
    assert "secret" not in result.stdout


def test_settings_are_shown_without_a_server(runner: CliRunner) -> None:
    """The one setting that has no default is unset; all others are there, a line each."""
    result = runner.invoke(app, ["config", "show"])
    assert result.exit_code == 0
    [line] = [line for line in result.stdout.splitlines() if line.startswith("cloud_url")]
    assert line.split() == ["cloud_url", "unset", "-"]
    assert "policy" in result.stdout


def test_built_targets(tmp_path: Path) -> None:
    """A folder with a configuration is a target; its size is that of all its files."""
    (folder := tmp_path / "models" / "key" / "Name").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"x" * 8)
    [found] = built_targets(tmp_path)
    assert (found.kind, found.name, found.num_bytes) == ("target", "Name", 10)


def test_sizes_are_readable() -> None:
    """Decimal units with few digits."""
    sizes = [size_text(number) for number in (999, 1000, 98_000_000, 8_500_000_000)]
    assert sizes == ["999 B", "1 kB", "98 MB", "8.5 GB"]


def test_models_lists_the_embedded_draft(runner: CliRunner) -> None:
    """The model that is installed with the package is there; no server is asked if none is set."""
    result = runner.invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["files"][0]["name"] == "embedded"
    assert (found["server"], found["problem"]) == (None, None)


def test_models_says_when_the_server_is_away(runner: CliRunner) -> None:
    """A server that does not answer spoils nothing else."""
    arguments = ["models", "--json", "--cloud", "http://127.0.0.1:9", "--connect-timeout-s", "2"]
    found = json.loads(runner.invoke(app, arguments).stdout)
    assert found["serves"] is None
    assert "no verifier answers" in found["problem"]


def test_suggest(runner: CliRunner) -> None:
    """A draft of a known family and how to get it, of an unknown one nothing; else all families."""
    known = runner.invoke(app, ["suggest", "meta-llama/Llama-3.1-8B-Instruct"])
    assert known.exit_code == 0, known.output
    assert "pipesd pull hf:" in known.output
    assert "pipesd doctor --draft hf:" in known.output
    unknown = json.loads(runner.invoke(app, ["suggest", "org/unheard-of", "--json"]).stdout)
    assert (unknown["best"], unknown["family"]) == (None, None)
    assert "Qwen 3" in runner.invoke(app, ["suggest"]).output


def test_suggest_asks_the_server(runner: CliRunner) -> None:
    """One that is not there is one sentence."""
    result = runner.invoke(app, ["suggest", "--cloud", "http://127.0.0.1:9"])
    assert result.exit_code != 0
    assert "127.0.0.1:9" in str(result.exception)


@pytest.mark.parametrize("name", ["embedded", "hf:org/repo"])
def test_pull_wants_a_file_on_the_hub(runner: CliRunner, name: str) -> None:
    """What is no hf:org/repo/file.gguf is refused with that hint."""
    result = runner.invoke(app, ["pull", name])
    assert result.exit_code != 0
    assert "hf:org/repo/file.gguf" in str(result.exception)


def test_pull_respects_offline(tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE a file that is not in the cache is one sentence, and exit code 1."""
    result = subprocess.run(
        [sys.executable, "-m", "openai_gateway.cli.main", "pull", "hf:org/repo/file.gguf"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("pipesd: hf:org/repo/file.gguf: not downloaded yet")


def test_a_process_is_listed_while_it_serves(tmp_path: Path) -> None:
    """The note is there inside the context, names this process, and is gone afterwards."""
    with announced("gateway", "http://127.0.0.1:1", "m", tmp_path):
        [running] = list_running(tmp_path)
        assert (running.kind, running.pid, running.model) == ("gateway", os.getpid(), "m")
        assert alive(running)
    assert list(tmp_path.iterdir()) == []


def test_stale_notes_are_passed_over(tmp_path: Path) -> None:
    """A process that is gone, another one with its id, and junk are no running servers."""
    assert write_state("server", "http://a", "m", tmp_path)
    (tmp_path / "junk.json").write_text("{")
    assert not alive(Running("server", os.getpid(), "http://a", "m", started="1"))
    assert list_running(tmp_path, is_alive=lambda _: False) == []
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """A state folder that is a file costs the entry in the list only."""
    (tmp_path / "file").touch()
    with announced("gateway", "http://a", "m", tmp_path / "file"):
        assert list_running(tmp_path / "file") == []


def test_ps(runner: CliRunner, tmp_path: Path) -> None:
    """Nothing, and then a gateway that does not answer (nobody listens on port 9)."""
    assert runner.invoke(app, ["ps", "--json"]).stdout == "[]\n"
    folder = tmp_path / "XDG_STATE_HOME" / "pipesd" / "running"
    with announced("gateway", "http://127.0.0.1:9", "org/target", folder):
        [row] = json.loads(runner.invoke(app, ["ps", "--json"]).stdout)
        line = runner.invoke(app, ["ps"]).stdout
    assert (row["url"], row["model"], row["health"]) == ("http://127.0.0.1:9", "org/target", "no answer")
    assert "org/target" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("http://127.0.0.1:8000", "embedded")),
        (["org/m", "--host", "0.0.0.0", "--port=81"], ("http://127.0.0.1:81", "org/m")),
        (["org/m", "--served-model-name", "x", "--ssl-keyfile", "k"], ("https://127.0.0.1:8000", "x")),
    ],
)
def test_where_a_server_will_be(arguments: list[str], expected: tuple[str, str]) -> None:
    """vLLM's flags, in both spellings, and its defaults."""
    assert served_at(arguments) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(runner: CliRunner, shell: str) -> None:
    """The script for a shell, and what it gets for an unfinished command."""
    environment = {"_PIPESD_COMPLETE": f"complete_{shell}", "COMP_WORDS": "pipesd do", "COMP_CWORD": "1"}
    typer_names = {"_TYPER_COMPLETE_ARGS": "pipesd do", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    result = runner.invoke(app, [], prog_name="pipesd", env={**environment, **typer_names})
    assert "doctor" in result.stdout
