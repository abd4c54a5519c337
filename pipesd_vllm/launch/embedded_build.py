"""Builds the embedded target, as a child process of `pipesd_vllm.launch.embedded`.

`python -m pipesd_vllm.launch.embedded_build GGUF FOLDER`: lines that start with "pipesd: " are progress,
the last line of a failure says what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipesd_vllm.launch.embedded_tokenizer import write_tokenizer


def build(gguf: Path, folder: Path) -> None:
    """Write the dequantised bf16 model and its tokenizer to the existing, empty `folder`."""
    _say("writing the tokenizer")
    write_tokenizer(gguf, folder)
    _say("dequantising the weights")
    _write_model(gguf, folder)


def _write_model(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    _say("writing the weights")
    model.save_pretrained(str(folder))
    _forget_origin(folder / "config.json")


def _forget_origin(config: Path) -> None:
    """Drop the training run's name, which would show up as the model's."""
    fields = json.loads(config.read_text())
    fields.pop("_name_or_path", None)
    fields.pop("_model_name_or_path", None)
    config.write_text(json.dumps(fields, indent=2) + "\n")


def _say(text: str) -> None:
    print(f"pipesd: {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Build; 1 and a last line with the reason if that fails."""
    gguf, folder = arguments
    try:
        build(Path(gguf), Path(folder))
    except Exception as error:  # whatever a library raises has to become the parent's one line
        if os.environ.get("PIPESD_DEBUG"):
            raise
        print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
