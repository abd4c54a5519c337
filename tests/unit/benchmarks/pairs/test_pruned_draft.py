"""A GGUF file loses layers."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from benchmarks.pairs.pruned_draft import drop_layers, renumbered


def model(path: Path, num_layers: int) -> Path:
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(num_layers)
    writer.add_name("whole")
    writer.add_token_list(["a", "b"])
    for layer in range(num_layers):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.full((2, 32), layer, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_names() -> None:
    """Layers above those dropped move down; what belongs to no layer stays."""
    assert renumbered("blk.2.attn_q.weight", (4, 5, 3)) == "blk.2.attn_q.weight"
    assert renumbered("blk.4.attn_q.weight", (4, 5, 3)) is None
    assert renumbered("blk.29.attn_q.weight", (4, 5, 3)) == "blk.26.attn_q.weight"
    assert renumbered("token_embd.weight", (4,)) == "token_embd.weight"


def test_file(tmp_path: Path) -> None:
    """Tensors, layer count and name are right, the rest is as it was, and twice gives the same bytes."""
    source = model(tmp_path / "a.gguf", 4)
    for name in ("b.gguf", "c.gguf"):
        drop_layers(source, tmp_path / name, (1, 2), "part")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()
    reader = GGUFReader(str(tmp_path / "b.gguf"))
    assert {t.name: float(t.data.flat[0]) for t in reader.tensors} == {
        "blk.0.ffn_up.weight": 0.0,
        "blk.1.ffn_up.weight": 3.0,
        "output_norm.weight": 1.0,
    }
    assert reader.fields["llama.block_count"].contents() == 2
    assert reader.fields["general.name"].contents() == "part"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]


def test_no_such_layer(tmp_path: Path) -> None:
    """Layers that are not there cannot be dropped."""
    with pytest.raises(ValueError, match="0 to 3"):
        drop_layers(model(tmp_path / "a.gguf", 4), tmp_path / "b.gguf", (4,), "x")
