"""Models and parallelism that sessions do not work with are refused by name, before weights load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm.launch.embedded import ensure_embedded_target
from pipesd_vllm.target_kind import UnsupportedTargetError, check_arguments, check_kv_cache, check_target_kind

JAMBA = {
    "architectures": ["JambaForCausalLM"],
    "model_type": "jamba",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "mamba_d_state": 4,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "max_position_embeddings": 128,
    "use_mamba_kernels": False,
    "torch_dtype": "float32",
}
MAMBA = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "vocab_size": 64,
    "hidden_size": 32,
    "state_size": 4,
    "num_hidden_layers": 2,
    "torch_dtype": "float32",
}


def folder(path: Path, config: dict[str, Any]) -> str:
    """A model without weights or tokenizer."""
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def model(**changes: Any) -> Any:
    """What is read of vLLM's model configuration: a decoder of attention layers."""
    values = {
        "model": "org/name",
        "architectures": ["SomeForCausalLM"],
        "runner_type": "generate",
        "is_hybrid": False,
        "is_attention_free": False,
        "is_encoder_decoder": False,
        "is_diffusion": False,
    }
    return SimpleNamespace(**{**values, **changes})


def parallel(**changes: int) -> SimpleNamespace:
    sizes = dict.fromkeys(
        ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"), 1
    )
    return SimpleNamespace(**{**sizes, **changes})


def test_decoders_of_attention_layers_are_accepted() -> None:
    """With any tensor or data parallelism: those sizes are not asked for."""
    check_target_kind(model(), parallel())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_hybrid": True}, "has recurrent layers"),
        ({"is_attention_free": True}, "has recurrent layers"),
        ({"is_encoder_decoder": True}, "is an encoder-decoder model"),
        ({"is_diffusion": True}, "is a diffusion model"),
        ({"runner_type": "pooling"}, "is served as a pooling model"),
    ],
)
def test_other_kinds_of_model_are_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    """The refusal names the model, its architecture and the reason."""
    with pytest.raises(UnsupportedTargetError) as caught:
        check_target_kind(model(**changes), parallel())
    assert str(caught.value).startswith(f"The target 'org/name' (SomeForCausalLM) {reason}")


@pytest.mark.parametrize(
    "field", ["pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"]
)
def test_parallelism_across_layers_or_context_is_refused_by_its_flag(field: str) -> None:
    """The refusal names the flag as the user gave it."""
    with pytest.raises(UnsupportedTargetError, match=f"--{field.replace('_', '-')} 2: "):
        check_target_kind(model(), parallel(**{field: 2}))


@pytest.mark.slow
def test_vllm_itself_says_which_kind_a_model_is(tmp_path: Path) -> None:
    """From vLLM's own arguments and model configuration; the embedded target passes."""
    with pytest.raises(UnsupportedTargetError, match=r"\(MambaForCausalLM\) has recurrent layers"):
        check_arguments(["--model", folder(tmp_path, MAMBA), "--skip-tokenizer-init"])
    embedded = str(ensure_embedded_target())
    check_arguments(["--model", embedded, "--tensor-parallel-size", "2"])
    with pytest.raises(UnsupportedTargetError, match="--pipeline-parallel-size 2"):
        check_arguments(["--model", embedded, "--pipeline-parallel-size", "2"])


@pytest.mark.slow
def test_the_server_says_it_and_stops(tmp_path: Path) -> None:
    """`pipesd serve` with a tiny hybrid model: one sentence at the end, exit code 1, no traceback."""
    command = [
        sys.executable,
        "-m",
        "pipesd_vllm.launch.serve",
        folder(tmp_path, JAMBA),
        "--skip-tokenizer-init",
    ]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"pipesd serve: The target {str(tmp_path)!r} (JambaForCausalLM) has recurrent layers"
    )


def test_a_cache_with_recurrent_state_is_refused() -> None:
    """However the model is called: the cache that vLLM makes for it says what it keeps."""
    torch = pytest.importorskip("torch")
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, MambaSpec

    attention = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
    state = MambaSpec(block_size=16, shapes=((4, 4),), dtypes=(torch.float32,))
    groups = [KVCacheGroupSpec(["a"], attention)]
    check_kv_cache(KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups))
    groups.append(KVCacheGroupSpec(["b"], state))
    with pytest.raises(UnsupportedTargetError, match="recurrent state"):
        check_kv_cache(KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups))
