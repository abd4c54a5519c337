"""vLLM's own parsers, tried as the server tries its own; a tokenizer with the marks that they look for."""

from __future__ import annotations

from argparse import Namespace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm.api.model_info import build_info
from pipesd_vllm.api.reasoning import plain_marks, reasoning_marks, reasoning_parser
from pipesd_vllm.wire import Fingerprint, Limits, Welcome

pytest.importorskip("vllm")

WELCOME = Welcome(1, "org/target", 9, 3, Fingerprint(3, "ab"), Limits(1, 2, 3))
MARKS = ("<think>", "</think>")


@cache
def tokenizer(special: bool) -> Any:
    """Bytes, and the marks of thoughts and calls as tokens of their own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: token_id for token_id, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = (*MARKS, "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>")
    made.add_tokens([AddedToken(mark, special=False) for mark in marks])
    names: dict[str, Any] = {"additional_special_tokens": list(MARKS)} if special else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def engine(parser: str, *, special: bool = False) -> Any:
    config = SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=parser))
    renderer = SimpleNamespace(get_tokenizer=lambda: tokenizer(special))
    return SimpleNamespace(vllm_config=config, renderer=renderer, model_config=None)


def marks_of(parser: str, *, special: bool = False, **variables: object) -> tuple[str, str] | None:
    args = Namespace(default_chat_template_kwargs=variables or None)
    return reasoning_marks(engine(parser, special=special), args)


@pytest.mark.parametrize("parser", ["deepseek_r1", "qwen3"])
def test_parsers_that_cut_at_marks(parser: str) -> None:
    """The marks of a plain parser are told, so that an edge can cut as it does."""
    assert marks_of(parser) == MARKS
    info = build_info(WELCOME, reasoning_parser(engine(parser)), marks_of(parser))
    assert (info["reasoning_parser"], info["reasoning_marks"]) == (parser, MARKS)


@pytest.mark.parametrize("parser", ["deepseek_v3", "granite", "no_such_parser"])
def test_other_parsers(parser: str) -> None:
    """A parser that does anything else, needs anything else or fails is named without marks."""
    assert reasoning_parser(engine(parser)) == parser
    assert marks_of(parser) is None


def test_thinking_switched_off_by_the_server() -> None:
    """A parser that splits nothing under the server's own template variables is not plain."""
    assert marks_of("qwen3", enable_thinking=False) is None


def test_no_parser() -> None:
    """A server that splits nothing says so."""
    assert reasoning_parser(engine("")) is None
    assert marks_of("") is None


def test_marks_without_a_text() -> None:
    """Marks that are special tokens never reach the edge's text: nobody could cut at them there."""
    assert marks_of("deepseek_r1", special=True) is None


def test_marks_must_be_given() -> None:
    """A parser that names no marks is not plain, whatever it does."""
    assert not plain_marks((None, "</think>"), [])
    assert not plain_marks(MARKS, [], lambda text: ("", text))
