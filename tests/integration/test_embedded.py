"""The embedded target, built for real: the same vocabulary and weights as the GGUF it comes from."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer

from pipesd_vllm.launch import embedded_gguf, ensure_embedded_target, vllm_arguments
from pipesd_vllm.wire import fingerprint

TEXTS = {
    "prose": "It's the naïve café's façade -- they'll've said \"no\", WON'T they?",
    "digits": "In 1999, 3.14159 + 2718281828 = 0x1F4; year 2024-05-17T10:30:00Z, ١٢٣ ½ ² Ⅷ ①",
    "code": "def f(x: int) -> int:\n\treturn x**2 if x != 10 else [1, 22]  # 4444\n\n\n\nprint(f(12))\n",
    "json": '{"id": 12345, "tags": ["a_b", "C3PO"], "ok": true}\r\n',
    "emoji": "🙂🙂 👩‍👩‍👧‍👦 🇩🇪 ❤️ ok👍🏽!",
    "cjk": "日本語のテキスト、中文文本。한국어 텍스트 \uff11\uff12",
    "right to left": "שלום עולם مرحبا بالعالم",
    "whitespace": " a  b   c\td\n\n e \n  \n\u00a0x\u3000y\u200bz\u2028w   ",
    "combining": "e\u0301 क्षि ก็ Z͑ͫ̓ͪ̂ͫ",
    "chat": "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n",
    "almost special": "<|im_start |> <|im_end <|endoftext|><repo_name>x<|im_start|><|im_start|>",
}
PIECES = [
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "0",
    "12",
    "a",
    "the",
    "'s",
    "'LL",
    "é",
    "日",
    "🙂",
    "½",
    "_",
    "!?",
    "—",
    "{",
    "<|im_end|>",
]
# Bytes that this vocabulary has no token for: both tokenizers drop them, each at another point.
UNKNOWN = {"\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"}


@pytest.fixture(scope="module")
def folder() -> Path:
    """The folder in the user's cache: what everything else uses, too."""
    return ensure_embedded_target()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def llama() -> Iterator[llama_cpp.Llama]:
    """llama.cpp with the GGUF file, greedy and on one thread."""
    model = llama_cpp.Llama(str(embedded_gguf()), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    yield model
    model.close()


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(embedded_gguf()).fields.items()}


def random_texts(count: int) -> Iterator[str]:
    """Mixtures of awkward pieces and of arbitrary characters; the same at every run."""
    dice = random.Random(2)
    for _ in range(count):
        characters = (chr(dice.choice((dice.randint(1, 0x3FF), dice.randint(1, 0x2FFFF)))) for _ in range(4))
        usable = [c for c in characters if c not in UNKNOWN and not 0xD800 <= ord(c) < 0xE000]
        yield "".join(dice.choice((*PIECES, *usable)) for _ in range(dice.randint(1, 12)))


def by_llama(model: llama_cpp.Llama, text: str) -> list[int]:
    return model.tokenize(text.encode(), add_bos=False, special=True)


def test_vocabulary_is_the_gguf_s(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Every token string has the same id on both sides, so edge and server agree on the fingerprint."""
    tokens = metadata["tokenizer.ggml.tokens"]
    ours = [tokenizer.id_to_token(token_id) for token_id in range(tokenizer.get_vocab_size())]
    assert len(ours) == 49_152
    assert ours == tokens
    assert fingerprint(ours) == fingerprint(tokens)


@pytest.mark.parametrize("kind", TEXTS)
def test_same_ids_as_llama_cpp(tokenizer: Tokenizer, llama: llama_cpp.Llama, kind: str) -> None:
    """Both tokenizers split every kind of text alike, and the ids decode to it again."""
    ids = tokenizer.encode(TEXTS[kind], add_special_tokens=False).ids
    assert ids == by_llama(llama, TEXTS[kind])
    assert tokenizer.decode(ids, skip_special_tokens=False) == TEXTS[kind]


def test_same_ids_on_random_texts(tokenizer: Tokenizer, llama: llama_cpp.Llama) -> None:
    """Random mixtures of digits, spaces, scripts and special tokens are split alike."""
    for text in random_texts(3000):
        assert tokenizer.encode(text, add_special_tokens=False).ids == by_llama(llama, text), repr(text)


def test_special_tokens(tokenizer: Tokenizer, folder: Path) -> None:
    """The chat's control tokens are one token each, and a turn ends with id 2 everywhere."""
    assert tokenizer.encode("<|im_start|><|im_end|>").ids == [1, 2]
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == 2
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")


def test_transformers_loads_the_tokenizer_as_it_is(folder: Path, llama: llama_cpp.Llama) -> None:
    """`AutoTokenizer` (which vLLM uses) keeps the pre-tokenizer and renders the GGUF's chat template."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(folder))
    assert loaded.encode(TEXTS["digits"], add_special_tokens=False) == by_llama(llama, TEXTS["digits"])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_weights_are_the_gguf_s(folder: Path, tokenizer: Tokenizer, llama: llama_cpp.Llama) -> None:
    """The bf16 model answers sensibly and picks the same next tokens as llama.cpp does from the GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight  # tied: kept once
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(output[ids.shape[1] :].tolist())

    with torch.no_grad():
        ours = model(output[None]).logits[0].argmax(-1).tolist()
    llama.reset()
    llama.eval(output.tolist())
    theirs = llama.scores[: len(ours)].argmax(-1).tolist()
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    assert same >= 0.9, f"{same:.0%} of {len(ours)} next tokens agree"  # the rest: rounding near ties


def test_embedded_imports_nothing_heavy() -> None:
    """The module loads without torch and transformers: `pipesd serve` imports it first."""
    import subprocess

    code = (
        "import sys, pipesd_vllm.launch.embedded; print({'torch', 'transformers', 'gguf'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_tool_calls_are_parsed() -> None:
    """The embedded target is served with vLLM's parser for its tool calls, unless another is named."""
    arguments = vllm_arguments(["embedded"])
    assert "--enable-auto-tool-choice" in arguments
    assert arguments[arguments.index("--tool-call-parser") + 1] == "hermes"
    named = vllm_arguments(["embedded", "--enable-auto-tool-choice", "--tool-call-parser=pythonic"])
    assert named.count("--enable-auto-tool-choice") == 1
    assert "hermes" not in named
