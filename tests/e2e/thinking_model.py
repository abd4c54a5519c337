"""The embedded pair as a model that thinks: two of its words are the marks `<think>` and `</think>`.

Asked for the country of Paris it writes "Paris is the capital of France and ...". With " France" renamed
that is thoughts, then an answer. Both forms of the model are changed, what drafts and what vLLM serves.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, Final

from pipesd_vllm.launch import embedded_gguf, ensure_embedded_target

__all__ = ["MARKS", "NAME", "make_thinking_pair"]

NAME: Final = "thinking"
"""What the server calls it."""

MARKS: Final = {"Ġthink": "<think>", "ĠFrance": "</think>"}
"""What the words are called now: as many bytes as before, so that the file can be changed in place."""
_TYPES: Final = b"tokenizer.ggml.token_type"
_TYPES_HEADER: Final = 4 + 4 + 8  # kind of field, kind of element, number of elements
_USER_DEFINED: Final = 4


def make_thinking_pair(folder: Path) -> tuple[Path, Path]:
    """Draft and target, written into `folder`."""
    draft, target = folder / "thinking.gguf", folder / "thinking"
    target.mkdir()
    for path in ensure_embedded_target().iterdir():
        if path.suffix == ".safetensors":
            (target / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, target / path.name)
    file = target / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    places = _rename(tokenizer)
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    draft.write_bytes(_renamed(bytearray(embedded_gguf().read_bytes()), places))
    return draft, target


def _rename(tokenizer: dict[str, Any]) -> list[int]:
    """Change a `tokenizer.json`: no merging makes the words any more. Their ids."""
    model = tokenizer["model"]
    places = []
    for word, mark in MARKS.items():
        places.append(model["vocab"].pop(word))
        model["vocab"][mark] = places[-1]
        whole = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": places[-1], "content": mark, **whole})
    model["merges"] = [
        merge for merge in model["merges"] if MARKS.keys().isdisjoint((*merge, "".join(merge)))
    ]
    return places


def _renamed(gguf: bytearray, places: list[int]) -> bytearray:
    for word, mark in MARKS.items():
        old, new = (struct.pack("<Q", len(text.encode())) + text.encode() for text in (word, mark))
        assert gguf.count(old) == 1
        start = gguf.index(old)
        gguf[start : start + len(old)] = new
    types = gguf.index(_TYPES) + len(_TYPES) + _TYPES_HEADER
    for place in places:
        struct.pack_into("<i", gguf, types + 4 * place, _USER_DEFINED)
    return gguf
