"""Where prompts come from."""

from pathlib import Path

import pytest

from benchmarks.datasets import available, find_specbench, load_dataset
from openai_gateway.cli.errors import CliError

LINES = (
    '{"question_id": 1, "category": "writing", "turns": ["Write."]}\n'
    '{"question_id": 2, "category": "math_reasoning", "turns": ["How many?"]}\n'
)


def test_gsm8k_is_part_of_specbench(tmp_path: Path) -> None:
    """Of Spec-Bench's file only the questions of GSM8K count."""
    file = tmp_path / "specbench.jsonl"
    file.write_text(LINES)
    assert [prompt.text for prompt in load_dataset("gsm8k", file)] == ["How many?"]


def test_what_is_there() -> None:
    """Without a file only HumanEval is run, unless GSM8K is asked for: then it says what is missing."""
    assert available(None, None) == ["humaneval"]
    assert available(None, Path("x")) == ["humaneval", "gsm8k"]
    with pytest.raises(CliError, match="--specbench"):
        load_dataset(available(["gsm8k"], None)[0], None)
    with pytest.raises(CliError, match="humaneval, gsm8k"):
        available(["mmlu"], None)


def test_named_first() -> None:
    """The flag beats the variable."""
    environ = {"PIPESD_SPECBENCH": "/variable"}
    assert find_specbench(Path("/flag"), environ) == Path("/flag")
    assert find_specbench(None, environ) == Path("/variable")
