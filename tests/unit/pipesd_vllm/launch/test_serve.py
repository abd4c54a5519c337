"""Our command line becomes vLLM's."""

import json

from pipesd_vllm.launch.serve import (
    CPU_WORKER,
    NO_BATCH_INVARIANCE,
    PROPOSER,
    SCHEDULER,
    WORKER,
    apply_exact,
    enable_plugin,
    vllm_arguments,
)


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_the_plugin_is_switched_on() -> None:
    """Scheduler, worker and proposer are named; the model becomes --model."""
    arguments = vllm_arguments(["org/model", "--port", "9000"])
    assert value(arguments, "--model") == "org/model"
    assert value(arguments, "--port") == "9000"
    assert value(arguments, "--scheduler-cls") == SCHEDULER
    assert value(arguments, "--worker-cls") in (WORKER, CPU_WORKER)
    config = json.loads(value(arguments, "--speculative-config"))
    assert (config["method"], config["model"]) == ("custom_class", PROPOSER)


def test_flags_given_win() -> None:
    """A flag the user gave is not given twice."""
    arguments = vllm_arguments(["m", "--speculative-config={}", "--scheduler-cls", "x.Y", "--worker-cls=x.Z"])
    assert arguments.count("--scheduler-cls") == 1
    assert "--speculative-config" not in arguments
    assert "--worker-cls" not in arguments
    assert "--distributed-executor-backend" not in arguments  # somebody else's proposer may propose


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
