"""Where prompts come from and which are taken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness.prompts import HUMANEVAL, Prompt, in_order, load_prompts, parse_specbench, tokenised
from edge_agent.fake_generator import FakeGenerator, fake_tokenizer_bundle
from openai_gateway.cli.errors import CliError
from openai_gateway.tokenization import TargetText

LINE = json.dumps({"question_id": 81, "category": "writing", "turns": ["Hello?", "And then?"]})


def test_specbench() -> None:
    """The first turn is the user's message; blank lines do not count."""
    assert list(parse_specbench(f"{LINE}\n\n", "file")) == [Prompt("writing/81", "Hello?", is_chat=True)]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", "{}", '{"question_id": 1, "category": "a", "turns": []}', LINE.replace('"H', '3, "H')],
)
def test_malformed_lines_are_named(line: str) -> None:
    """The message says which line of which file."""
    with pytest.raises(CliError, match="Line 2 of file"):
        list(parse_specbench(f"{LINE}\n{line}", "file"))


def test_humaneval() -> None:
    """All problems of the package, as raw completions."""
    prompts = load_prompts(HUMANEVAL)
    assert len(prompts) == 164
    assert prompts[0].name == "HumanEval/0"
    assert not prompts[0].is_chat
    assert "def has_close_elements" in prompts[0].text


@pytest.mark.parametrize(("content", "reason"), [(b"", "no prompts"), (b"\xff\xfe", "not UTF-8")])
def test_useless_files(tmp_path: Path, content: bytes, reason: str) -> None:
    """Each ends in a sentence."""
    (file := tmp_path / "prompts.jsonl").write_bytes(content)
    with pytest.raises(CliError, match=reason):
        load_prompts(str(file))


def test_a_missing_file(tmp_path: Path) -> None:
    """It ends in a sentence, too."""
    with pytest.raises(CliError, match="Cannot read prompts"):
        load_prompts(str(tmp_path / "none.jsonl"))


def test_order() -> None:
    """The wanted ones come first, at even distances if asked for, and none is lost."""
    prompts = [Prompt(str(i), "", is_chat=False) for i in range(6)]
    assert in_order(prompts, 2, spread=False) == prompts
    assert [p.name for p in in_order(prompts, 2, spread=True)] == ["0", "3", "1", "2", "4", "5"]
    assert in_order(prompts, 9, spread=True) == prompts


async def test_chat_prompts_go_through_the_template(make_fake: Callable[[str], FakeGenerator]) -> None:
    """Raw prompts do not."""
    text = TargetText(await make_fake("hello").tokenizer())
    raw = await tokenised(Prompt("a", "hello", is_chat=False), text)
    chat = await tokenised(Prompt("b", "hello", is_chat=True), text)
    assert chat.name == "b"
    assert len(chat.token_ids) > len(raw.token_ids)
    assert chat.token_ids[0] == 1  # <|im_start|>


async def test_a_model_without_a_template() -> None:
    """A chat prompt for it ends in a sentence with the prompt's name."""
    text = TargetText(fake_tokenizer_bundle(["hello"], chat_template=None))
    with pytest.raises(CliError, match="b cannot be asked"):
        await tokenised(Prompt("b", "hello", is_chat=True), text)
