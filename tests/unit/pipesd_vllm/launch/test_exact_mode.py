"""`--exact` switches vLLM's batch-invariant mode on, or says that it cannot."""

from pipesd_vllm.launch.exact_mode import NOT_HERE, apply_exact


def test_the_mode_is_switched_on_where_there_is_one() -> None:
    """The flag becomes vLLM's environment variable and does not reach vLLM's command line."""
    environment: dict[str, str] = {}
    said: list[str] = []
    rest = apply_exact(["m", "--exact", "--port", "1"], environment, lambda: True, said.append)
    assert (rest, environment, said) == (["m", "--port", "1"], {"VLLM_BATCH_INVARIANT": "1"}, [])


def test_elsewhere_one_sentence_says_so() -> None:
    """Where the platform has no such mode the server starts all the same, and says what that means."""
    environment: dict[str, str] = {}
    said: list[str] = []
    rest = apply_exact(["--exact"], environment, lambda: False, said.append)
    assert (rest, environment, said) == ([], {}, [NOT_HERE])


def test_without_the_flag_nothing_happens() -> None:
    """Nobody asks about the platform, nothing is set or said."""

    def never() -> bool:
        raise AssertionError("asked")

    environment: dict[str, str] = {}
    assert apply_exact(["m", "--port", "1"], environment, never, print) == ["m", "--port", "1"]
    assert environment == {}
