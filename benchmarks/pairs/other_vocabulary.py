"""A draft of another vocabulary: a GGUF model whose tokens have other ids, some of them taken out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.pairs.pruned_draft import copy_fields

__all__ = ["respell", "shuffled"]

_TOKENS: Final = "tokenizer.ggml.tokens"
_TYPES: Final = "tokenizer.ggml.token_type"
_MERGES: Final = "tokenizer.ggml.merges"
_NORMAL: Final = 1
"""GGUF token type of tokens that merging makes."""
_ROWS: Final = ("token_embd.weight", "output.weight")
"""Tensors that have a row a token."""


def shuffled(source: Path, dropped: float, seed: int = 0) -> list[int]:
    """`source`'s token ids in another order, without a share `dropped` of those that merging makes."""
    from gguf import GGUFReader

    fields = GGUFReader(str(source)).fields
    tokens, types = (fields[name].contents() for name in (_TOKENS, _TYPES))
    rng = random.Random(seed)
    kept = [
        token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != _NORMAL or len(token) == 1 or rng.random() >= dropped
    ]
    rng.shuffle(kept)
    return kept


def respell(source: Path, destination: Path, kept: Sequence[int], name: str) -> None:
    """Write `source` with the tokens `kept` alone, in this order, and called `name`.

    Weights are as they were. The new file's own tokenizer cannot make what lacks a merge.
    """
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(str(source))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    writer = GGUFWriter(str(destination), fields["general.architecture"])
    copy_fields(reader, writer, {"general.name": name, **_vocabulary(fields, kept)})
    for tensor in reader.tensors:
        data = tensor.data[list(kept)] if tensor.name in _ROWS else tensor.data
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(fields: Mapping[str, Any], kept: Sequence[int]) -> dict[str, object]:
    """The fields that change with the vocabulary."""
    new_id = {old: new for new, old in enumerate(kept)}
    tokens = [fields[_TOKENS][old] for old in kept]
    known = set(tokens)
    merges = [m for m in fields[_MERGES] if m.replace(" ", "") in known and set(m.split(" ")) <= known]
    changed: dict[str, object] = {
        key: new_id[value]
        for key, value in fields.items()
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
    }
    size_key = f"{fields['general.architecture']}.vocab_size"
    if size_key in fields:
        changed[size_key] = len(tokens)
    return changed | {_TOKENS: tokens, _TYPES: [fields[_TYPES][old] for old in kept], _MERGES: merges}
