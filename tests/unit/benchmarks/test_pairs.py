"""Models made here: layers dropped, depth padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from benchmarks.pairs.catalog import Catalog, draft_description, target_description
from benchmarks.pairs.padded_target import pad_depth
from benchmarks.pairs.pruned_draft import drop_layers
from openai_gateway.cli.errors import CliError


def test_other_names_pass(tmp_path: Path) -> None:
    """Paths, Hugging Face ids and "embedded" are what they are, and nothing is made for them."""
    catalog = Catalog(tmp_path)
    assert catalog.draft("embedded") == "embedded"
    assert catalog.draft("hf:a/b/c.gguf") == "hf:a/b/c.gguf"
    assert catalog.target("org/model") == "org/model"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["depth-x99", "depth-x1", "depth-x9.5", "depth-2"])
def test_targets_that_are_not_made(tmp_path: Path, name: str) -> None:
    """A number that there is no depth for is told with those that there are, and not taken for a Hub's id."""
    with pytest.raises(CliError, match=f"no target '{name}': made here are depth-x1.1 to depth-x8.9"):
        Catalog(tmp_path).target(name)


def test_drafts_that_are_not_made(tmp_path: Path) -> None:
    """So with drafts."""
    with pytest.raises(CliError, match="no draft 'minus-9-layers': made here are minus-3-layers, "):
        Catalog(tmp_path).draft("minus-9-layers")


def test_descriptions_say_what_they_are() -> None:
    """A reader of the report learns that layers are missing, or that they add zero."""
    assert "without its layers 4, 5, 3 of 30" in draft_description("minus-3-layers")
    assert "padded 2-fold" in target_description("depth-x2")
    assert "padded 1.5-fold" in target_description("depth-x1.5")
    assert target_description("org/model") == "org/model"


@pytest.mark.parametrize(("factor", "num_layers"), [(3, 6), (1.5, 3)])
def test_same_logits(tmp_path: Path, factor: float, num_layers: int) -> None:
    """With three times the layers, or half as many again, every logit is the same, bit for bit."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    (tmp_path / "padded").mkdir()
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    pad_depth(tmp_path / "plain", tmp_path / "padded", factor)
    plain, padded = (
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "padded")
    )
    assert len(padded.model.layers) == num_layers
    tokens = torch.arange(20).reshape(1, -1)
    with torch.no_grad():
        assert torch.equal(plain(tokens).logits, padded(tokens).logits)


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
