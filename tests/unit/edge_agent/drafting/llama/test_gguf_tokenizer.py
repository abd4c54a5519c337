from pathlib import Path

import pytest
from gguf import GGUFWriter
from tokenizers import Tokenizer, pre_tokenizers

from edge_agent.drafting import embedded_model
from edge_agent.drafting.llama.tokenizer import gguf_tokenizer
from pipesd_vllm.launch import write_tokenizer

TEXTS = (
    "Hello world, it's 2026!",
    "naïve café 日本語 🙂\n\n  def f(x):\n\treturn x1234",
    "",
    "<|im_start|>user\nhi",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer, str]:
    """The embedded draft's own tokenizer, and the embedded target's; the own template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bundle = gguf_tokenizer(embedded_model())
    write_tokenizer(embedded_model(), folder)
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert bundle.chat_template is not None
    assert bundle.special_tokens["eos_token"] == "<|im_end|>"
    assert bundle.eos_token_ids == (theirs.token_to_id("<|im_end|>"),)
    return Tokenizer.from_str(bundle.tokenizer_json), theirs, bundle.chat_template


@pytest.mark.parametrize("text", TEXTS)
def test_same_tokens_as_the_target(tokenizers: tuple[Tokenizer, Tokenizer, str], text: str) -> None:
    """Offline the embedded pair is given the same tokens, special ones included, as online."""
    ours, theirs, _ = tokenizers
    assert ours.encode(text).ids == theirs.encode(text).ids


def test_template(tokenizers: tuple[Tokenizer, Tokenizer, str]) -> None:
    """The model's own chat template comes along."""
    assert "<|im_start|>" in tokenizers[2]


def test_paths_are_paths() -> None:
    """A file that is no GGUF is an error, not a tokenizer."""
    with pytest.raises(ValueError, match="GGUF"):
        gguf_tokenizer(Path(__file__))


def test_marks_that_are_text(tmp_path: Path) -> None:
    """A user-defined token such as `<think>` is found in a prompt, and has a text in an answer."""
    writer = GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*letters, "<|end|>", "<think>"])
    writer.add_token_types([1] * len(letters) + [3, 4])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = Tokenizer.from_str(gguf_tokenizer(tmp_path / "a.gguf").tokenizer_json)
    ids = tokenizer.encode("a<think>b<|end|>").ids
    assert ids == [letters.index("a"), 257, letters.index("b"), 256]
    assert tokenizer.decode(ids) == "a<think>b"
