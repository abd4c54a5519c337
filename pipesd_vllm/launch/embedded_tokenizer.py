"""Makes a Hugging Face tokenizer from a GGUF file's byte-level BPE vocabulary.

transformers' own GGUF conversion gives every "gpt2" vocabulary GPT-2's pre-tokenizer; SmolLM2 also
splits every digit, and ids would differ from llama.cpp's wherever two digits meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_CONTROL: Final = 3
"""GGUF token type of special tokens such as `<|im_start|>`."""
_SUPPORTED: Final = ("gpt2", "smollm")


def write_tokenizer(gguf: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (chat template inside) to `folder`.

    Ids, special tokens and splits are those of llama.cpp for the same file. Raises `ValueError`
    for a vocabulary other than SmolLM2's kind.
    """
    metadata = _metadata(gguf)
    kind = (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"])
    if kind != _SUPPORTED:
        raise ValueError(f"tokenizer kind {kind} in {gguf}, only {_SUPPORTED} is supported")
    _tokenizer(metadata).save(str(folder / "tokenizer.json"))
    config = json.dumps(_tokenizer_config(metadata), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


def _metadata(gguf: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(gguf).fields.items()}


def _tokenizer(metadata: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def _tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {
        "bos_token": "tokenizer.ggml.bos_token_id",
        "eos_token": "tokenizer.ggml.eos_token_id",
        "pad_token": "tokenizer.ggml.padding_token_id",
        "unk_token": "tokenizer.ggml.unknown_token_id",
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[metadata[key]] for name, key in ids.items()},
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }
