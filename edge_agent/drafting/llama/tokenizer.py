"""A draft model's own tokenizer and chat template, out of its GGUF file: for work without a verifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edge_agent.api import TokenizerBundle
from edge_agent.errors import ModelError

__all__ = ["gguf_tokenizer"]

_CONTROL: Final = 3
"""GGUF token type of special tokens such as `<|im_start|>`."""
_USER_DEFINED: Final = 4
"""Of tokens that are text, and found in it before it is cut, such as `<think>`."""
_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: Final = {
    "llama-bpe": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST,
}
"""How llama.cpp cuts text before merging, by the file's `tokenizer.ggml.pre` (`llama-vocab.cpp`)."""
_END_KEYS: Final = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
_SPECIAL: Final = {
    "bos_token": "bos",
    "eos_token": "eos",
    "pad_token": "padding",
    "unk_token": "unknown",
}


def gguf_tokenizer(path: Path) -> TokenizerBundle:
    """Tokenizer, template and special tokens of the file (seconds of work).

    Byte-level BPE of the kinds `smollm`, `gpt-2`, `llama-bpe` and `qwen2` is understood. Raises
    `ModelError` for any other.
    """
    from gguf import GGUFReader

    metadata = {name: field.contents() for name, field in GGUFReader(path).fields.items()}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ends = {metadata[key] for key in _END_KEYS if key in metadata}
    ids = {name: metadata.get(f"tokenizer.ggml.{kind}_token_id") for name, kind in _SPECIAL.items()}
    return TokenizerBundle(
        tokenizer_json=_tokenizer(metadata, tokens, path),
        chat_template=metadata.get("tokenizer.chat_template"),
        special_tokens={name: tokens[token_id] for name, token_id in ids.items() if token_id is not None},
        eos_token_ids=tuple(sorted(ends)),
    )


def _tokenizer(metadata: Mapping[str, Any], tokens: list[str], path: Path) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    kind = metadata["tokenizer.ggml.pre"] if metadata["tokenizer.ggml.model"] == "gpt2" else None
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind == "llama-bpe"))
    tokenizer.pre_tokenizer = _pre_tokenizer(kind, path)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    whole = [
        AddedToken(token, normalized=False, special=type_ == _CONTROL)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(whole)
    if metadata.get("tokenizer.ggml.add_bos_token"):
        bos = tokens[metadata["tokenizer.ggml.bos_token_id"]]
        begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
        tokenizer.post_processor = begin
    text: str = tokenizer.to_str()
    return text


def _pre_tokenizer(kind: str | None, path: Path) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if kind == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[kind]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    raise ModelError(
        f"{path.name} has a tokenizer ({kind}) that this agent cannot read from the file: "
        "start once while the verifier answers, then its tokenizer is kept"
    )
