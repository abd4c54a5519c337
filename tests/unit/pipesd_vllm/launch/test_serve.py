"""Our command line becomes vLLM's."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.launch import serve
from pipesd_vllm.launch.serve import (
    CPU_WORKER,
    NO_BATCH_INVARIANCE,
    SCHEDULER,
    WORKER,
    BadFlagError,
    apply_exact,
    enable_plugin,
    take_fill_in,
    vllm_arguments,
)


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_the_plugin_is_switched_on() -> None:
    """Scheduler, worker and speculation are named; the model becomes --model."""
    arguments = vllm_arguments(["org/model", "--port", "9000"])
    assert value(arguments, "--model") == "org/model"
    assert value(arguments, "--port") == "9000"
    assert value(arguments, "--scheduler-cls") == SCHEDULER
    assert value(arguments, "--worker-cls") in (WORKER, CPU_WORKER)
    assert json.loads(value(arguments, "--speculative-config")) == speculative_config(FillIn.NONE)


@pytest.mark.parametrize("name", [SCHEDULER, CPU_WORKER])
def test_what_is_named_exists(name: str) -> None:
    """vLLM imports it by its path."""
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(import_module(module), attribute))


def test_flags_given_win() -> None:
    """A flag the user gave is not given twice."""
    arguments = vllm_arguments(["m", "--speculative-config={}", "--scheduler-cls", "x.Y", "--worker-cls=x.Z"])
    assert arguments.count("--scheduler-cls") == 1
    assert "--speculative-config" not in arguments
    assert "--worker-cls" not in arguments


@pytest.mark.parametrize(
    "given",
    [
        ["--speculative-config", "{}"],
        ["--speculative-config={}"],
        ["--spec-method", "mtp"],
        ["--spec-tokens=3"],
    ],
)
def test_an_operators_own_speculation_stays(given: list[str]) -> None:
    """In whatever flags vLLM takes it; no second one is added."""
    arguments = vllm_arguments(["m", *given])
    assert arguments[2 : 2 + len(given)] == given
    assert sum(argument.startswith("--spec") for argument in arguments) == 1


# -- --fill-in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rest", "fill_in"),
    [
        (["m", "--port", "1"], ["m", "--port", "1"], None),
        (["m", "--fill-in", "ngram", "--port", "1"], ["m", "--port", "1"], FillIn.NGRAM),
        (["m", "--port", "1", "--fill-in=none"], ["m", "--port", "1"], FillIn.NONE),
    ],
)
def test_fill_in_is_ours_and_not_vllms(given: list[str], rest: list[str], fill_in: FillIn | None) -> None:
    """It is taken out of the command line, whichever way it is written."""
    assert take_fill_in(given) == (rest, fill_in)


@pytest.mark.parametrize(
    "given", [["--fill-in", "eagle"], ["--fill-in="], ["--fill-in"], ["--fill-in", "--port"]]
)
def test_a_wrong_fill_in_is_refused_in_one_sentence(given: list[str]) -> None:
    """It says what the flag takes."""
    with pytest.raises(BadFlagError, match=r"^--fill-in takes none or ngram, not '.*'\.$"):
        take_fill_in(["m", *given])


@pytest.mark.parametrize(
    "own", [["--speculative-config", "{}"], ["--speculative-config={}"], ["--spec-method", "mtp"]]
)
def test_fill_in_beside_an_operators_own_speculation_is_refused(own: list[str]) -> None:
    """Either of them says who drafts, whatever it says."""
    for fill_in in FillIn:
        with pytest.raises(
            BadFlagError, match=r"^--fill-in and --speculative-config exclude each other: .*\.$"
        ):
            take_fill_in(["m", "--fill-in", fill_in, *own])


def test_fill_in_becomes_vllms_speculation() -> None:
    """What `ngram` means is `fill_in.py`'s business."""
    arguments = vllm_arguments(["m"], FillIn.NGRAM)
    assert json.loads(value(arguments, "--speculative-config")) == speculative_config(FillIn.NGRAM)


def test_a_wrong_flag_ends_the_program_with_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, and vLLM is not started."""
    monkeypatch.setattr("sys.argv", ["pipesd serve", "m", "--fill-in", "eagle"])
    monkeypatch.setattr("pipesd_vllm.launch.cpu_host.preload_openmp", lambda: None)
    with pytest.raises(SystemExit, match=r"^pipesd serve: --fill-in takes none or ngram, not 'eagle'\.$"):
        serve.main()


@pytest.mark.parametrize("arguments", [["--bogus", "3"], ["embedded", "--port", "many"]])
def test_flags_of_vllm_are_checked_before_a_model_is_built(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In vLLM's words."""

    def build(**options: object) -> Path:
        raise AssertionError

    monkeypatch.setattr("sys.argv", ["pipesd serve", *arguments])
    monkeypatch.setattr(serve, "enable_plugin", lambda environment: None)  # not in this process
    monkeypatch.setattr("pipesd_vllm.launch.cpu_host.preload_openmp", lambda: None)
    monkeypatch.setattr(serve, "ensure_embedded_target", build)
    with pytest.raises(SystemExit) as caught:
        serve.main()
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


# -- plugin and model ------------------------------------------------------------------------


def test_other_plugins_stay_enabled() -> None:
    """Plugins named before stay named; ours is added once, and switched on."""
    environment = {"VLLM_PLUGINS": "other"}
    enable_plugin(environment)
    enable_plugin(environment)
    assert environment == {"VLLM_PLUGINS": "other,pipesd", "PIPESD_SERVE": "1"}


def test_the_model_may_be_a_flag() -> None:
    """`--model` names it as well as the first word, and is handed on once."""
    for given in (["--model", "org/model", "--port", "1"], ["x", "--model=org/model", "--port", "1"]):
        arguments = vllm_arguments(given)
        assert arguments[:4] == ["--model", "org/model", "--port", "1"]
        assert "x" not in arguments


def test_exact_switches_the_batch_invariant_mode_on() -> None:
    """The flag becomes vLLM's environment variable and does not reach vLLM's command line."""
    environment: dict[str, str] = {}
    said: list[str] = []
    rest = apply_exact(["m", "--exact", "--port", "1"], environment, lambda: True, said.append)
    assert (rest, environment, said) == (["m", "--port", "1"], {"VLLM_BATCH_INVARIANT": "1"}, [])


def test_exact_without_such_a_mode_is_told_in_one_sentence() -> None:
    """Where the platform has no such mode the server starts all the same, and says what that means."""
    environment: dict[str, str] = {}
    said: list[str] = []
    rest = apply_exact(["--exact"], environment, lambda: False, said.append)
    assert (rest, environment, said) == ([], {}, [NO_BATCH_INVARIANCE])


def test_without_exact_nothing_happens() -> None:
    """Nobody asks about the platform, nothing is set or said."""

    def never() -> bool:
        raise AssertionError("asked")

    environment: dict[str, str] = {}
    assert apply_exact(["m", "--port", "1"], environment, never, print) == ["m", "--port", "1"]
    assert environment == {}
