"""What stands beside a target, tiny and random: it says nothing sensible, but always the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.lora.request import LoRARequest

__all__ = ["tiny_adapter", "tiny_eagle"]

_RANK = 4


def tiny_adapter(target: Path, folder: Path) -> LoRARequest:
    """A LoRA adapter for a Llama in `folder`; it turns the target's texts into others."""
    config, random = _config(target), torch.Generator().manual_seed(5)
    hidden, values = config["hidden_size"], _key_value_size(config)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, size in (("q_proj", hidden), ("v_proj", values)):
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = 0.3 * torch.randn(_RANK, hidden, generator=random)
            weights[f"{place}.lora_B.weight"] = 0.3 * torch.randn(size, _RANK, generator=random)
    save_file(weights, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(target),
        "target_modules": ["q_proj", "v_proj"],
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    return LoRARequest("tiny", 1, str(folder))


def tiny_eagle(target: Path, folder: Path) -> dict[str, object]:
    """vLLM's speculative config of an EAGLE head for a Llama, written to `folder`; it drafts at random."""
    config, random = _config(target), torch.Generator().manual_seed(5)
    hidden, inner, values = config["hidden_size"], config["intermediate_size"], _key_value_size(config)
    sizes = {
        "fc": (hidden, 2 * hidden),
        "layers.0.self_attn.q_proj": (hidden, hidden),
        "layers.0.self_attn.k_proj": (values, hidden),
        "layers.0.self_attn.v_proj": (values, hidden),
        "layers.0.self_attn.o_proj": (hidden, hidden),
        "layers.0.mlp.gate_proj": (inner, hidden),
        "layers.0.mlp.up_proj": (inner, hidden),
        "layers.0.mlp.down_proj": (hidden, inner),
    }
    weights = {f"{name}.weight": 0.02 * torch.randn(*size, generator=random) for name, size in sizes.items()}
    weights["layers.0.post_attention_layernorm.weight"] = torch.ones(hidden)
    save_file(weights, folder / "model.safetensors")
    head = {**config, "architectures": ["EagleLlamaForCausalLM"], "num_hidden_layers": 1, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(head), encoding="utf-8")
    return {"method": "eagle", "model": str(folder), "num_speculative_tokens": 3}


def _config(target: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((target / "config.json").read_text(encoding="utf-8"))
    return config


def _key_value_size(config: dict[str, Any]) -> int:
    return int(config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"])
