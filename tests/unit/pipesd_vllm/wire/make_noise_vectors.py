# mypy: ignore-errors
# ruff: noqa: E402
"""Prints the known answers of `noise_vectors.json`: what vLLM's kernels give, run by Triton's interpreter.

    python -m tests.unit.pipesd_vllm.wire.make_noise_vectors > tests/unit/pipesd_vllm/wire/noise_vectors.json

Needs vLLM and Triton, no GPU. To be run again when vLLM's `gumbel.py` changes.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import triton.backends
from triton.backends.driver import DriverBase

# vLLM's CPU build only looks for the name; Triton never makes one of these.
triton.backends.backends.setdefault("cpu", triton.backends.Backend(compiler=None, driver=DriverBase))

import torch
import vllm
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample import gumbel

SEEDS = (0, 1, 7, -1, -5, 2**32 - 1, 2**32 + 5, 2**62 + 12345, 2**63 - 1, -(2**63))
POSITIONS = (0, 1, 41, 4090, 131_071)
TOKENS = (0, 1, 2, 7, 1023, 49_151, 151_935, 262_143)


@triton.jit
def draw(hashes, fp32, fp64, seed_ptr, position_ptr, tokens, size: tl.constexpr):
    """One token a lane: the scores of tokens without logits, as `gumbel_noised_argmax` makes them."""
    lane = tl.arange(0, size)
    token = tl.load(tokens + lane)
    seed, position = tl.load(seed_ptr), tl.load(position_ptr)
    tl.store(hashes + lane, gumbel.murmur3_hash32(seed, position, token).to(tl.int64))
    u = gumbel.murmur3_uniform32(seed, position, token)
    tl.store(fp32 + lane, -tl.log(-gumbel._log1p_neg_stable(u)))
    u = gumbel.murmur3_uniform64(seed, position, token)
    tl.store(fp64 + lane, -tl.log(-tl.log(u)))


def drawn(seed: int, position: int) -> dict[str, object]:
    size = len(TOKENS)
    outputs = [torch.empty(size, dtype=dtype) for dtype in (torch.int64, torch.float32, torch.float64)]
    keys = [torch.tensor(key) for key in ([seed], [position], TOKENS)]
    draw[(1,)](*outputs, *keys, size=size)
    hashes, fp32, fp64 = (output.tolist() for output in outputs)
    return {"seed": seed, "position": position, "hash32": hashes, "fp32": fp32, "fp64": fp64}


if __name__ == "__main__":
    cases = ",\n".join(json.dumps(drawn(seed, position)) for seed in SEEDS for position in POSITIONS)
    head = json.dumps({"vllm": vllm.__version__, "tokens": TOKENS})
    print(f'{head[:-1]}, "cases": [\n{cases}\n]}}')
