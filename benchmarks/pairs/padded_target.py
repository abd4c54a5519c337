"""A dearer target with the same text: layers that add zero, so that the depth is k-fold.

`python -m benchmarks.pairs.padded_target SOURCE DESTINATION FACTOR`, a process of its own because of
torch. The layers added are copies whose output projections (`o_proj`, `down_proj`) are zero:
each costs as much as any other and leaves the residual stream as it is, bit for bit.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Final

__all__ = ["added_layers", "pad_depth"]

_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ZEROED: Final = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_WEIGHTS: Final = "model.safetensors"
_CONFIG: Final = "config.json"
_NOT_COPIED: Final = (_WEIGHTS, _CONFIG, "pipesd.json")


def added_layers(tensor: str, num_layers: int, num_padded: int) -> list[tuple[str, bool]]:
    """The copies of `tensor` in the layers that are added, each with whether it is zeroed."""
    match = _LAYER.fullmatch(tensor)
    if match is None:
        return []
    zeroed = match[2] in _ZEROED
    numbers = range(num_layers + int(match[1]), num_padded, num_layers)
    return [(f"model.layers.{number}.{match[2]}", zeroed) for number in numbers]


def pad_depth(source: Path, destination: Path, factor: float) -> None:
    """Write the Hugging Face folder `source` (one safetensors file) with its depth `factor`-fold, rounded.

    `destination` exists and is empty.
    """
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((source / _CONFIG).read_text())
    num_layers = config["num_hidden_layers"]
    num_padded = round(num_layers * factor)
    tensors = load_file(source / _WEIGHTS)
    for name in list(tensors):
        for copy, zeroed in added_layers(name, num_layers, num_padded):
            tensors[copy] = torch.zeros_like(tensors[name]) if zeroed else tensors[name].clone()
    save_file(tensors, destination / _WEIGHTS, metadata={"format": "pt"})
    config["num_hidden_layers"] = num_padded
    (destination / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    for path in source.iterdir():
        if path.is_file() and path.name not in _NOT_COPIED:
            shutil.copyfile(path, destination / path.name)


if __name__ == "__main__":
    pad_depth(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
