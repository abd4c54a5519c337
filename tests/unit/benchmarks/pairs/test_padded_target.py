"""A padded target is the same function."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.pairs.padded_target import added_layers, pad_depth


def test_names() -> None:
    """Each fold repeats all layers; output projections are the ones that are zeroed."""
    assert added_layers("model.layers.1.mlp.up_proj.weight", 30, 90) == [
        ("model.layers.31.mlp.up_proj.weight", False),
        ("model.layers.61.mlp.up_proj.weight", False),
    ]
    assert added_layers("model.layers.0.self_attn.o_proj.weight", 2, 4)[0][1]
    assert added_layers("model.embed_tokens.weight", 30, 90) == []
    assert [len(added_layers(f"model.layers.{n}.mlp.up_proj.weight", 2, 3)) for n in (0, 1)] == [1, 0]


@pytest.mark.parametrize(("factor", "num_layers"), [(3, 6), (1.5, 3)])
def test_same_logits(tmp_path: Path, factor: float, num_layers: int) -> None:
    """With three times the layers, or half as many again, every logit is the same, bit for bit."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    (tmp_path / "padded").mkdir()
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    pad_depth(tmp_path / "plain", tmp_path / "padded", factor)
    plain, padded = (LlamaForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "padded"))
    assert len(padded.model.layers) == num_layers
    tokens = torch.arange(20).reshape(1, -1)
    with torch.no_grad():
        assert torch.equal(plain(tokens).logits, padded(tokens).logits)
