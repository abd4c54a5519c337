"""A weaker and faster draft: a GGUF model without some of its layers, nothing trained."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = ["copy_fields", "drop_layers", "renumbered"]

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")
_NAME_KEY: Final = "general.name"
_SKIPPED_KEYS: Final = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")


def renumbered(tensor: str, dropped: Collection[int]) -> str | None:
    """The name of `tensor` once the layers `dropped` are gone; None if it goes with them."""
    match = _LAYER.fullmatch(tensor)
    if match is None:
        return tensor
    layer = int(match[1])
    if layer in dropped:
        return None
    return f"blk.{layer - sum(d < layer for d in dropped)}.{match[2]}"


def drop_layers(source: Path, destination: Path, dropped: Collection[int], name: str) -> None:
    """Write `source` without the layers `dropped` and called `name`; bytes of the rest as they are.

    Raises `ValueError` if there are no such layers.
    """
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(str(source))
    architecture = reader.fields["general.architecture"].contents()
    count_key = f"{architecture}.block_count"
    num_layers = reader.fields[count_key].contents()
    if not set(dropped) < set(range(num_layers)):
        raise ValueError(f"{source.name} has the layers 0 to {num_layers - 1}, not all of {sorted(dropped)}")
    changed = {count_key: num_layers - len(set(dropped)), _NAME_KEY: name}
    writer = GGUFWriter(str(destination), architecture)
    copy_fields(reader, writer, changed)
    kept = [(new, t) for t in reader.tensors if (new := renumbered(t.name, dropped)) is not None]
    for new, tensor in kept:
        writer.add_tensor(new, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_fields(reader: object, writer: object, changed: dict[str, object]) -> None:
    """Add the fields of a `GGUFReader` to a `GGUFWriter`, with other values for those `changed`."""
    from gguf import GGUFValueType

    for field in reader.fields.values():  # type: ignore[attr-defined]
        if field.name in _SKIPPED_KEYS:
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == GGUFValueType.ARRAY else None
        value = changed.get(field.name, field.contents())
        writer.add_key_value(field.name, value, kind, sub_type=element)  # type: ignore[attr-defined]
