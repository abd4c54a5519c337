"""Works out the target's `wire.Identity` from what the engine was started with."""

from __future__ import annotations

import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipesd_vllm import compat
from pipesd_vllm.api.reasoning import reasoning_parser
from pipesd_vllm.wire import Identity

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

__all__ = ["adapter_identity", "build_identity", "files_digest", "served_template"]

logger = logging.getLogger("pipesd.server")

_WEIGHTS: Final = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
_MAX_HEADER_BYTES: Final = 1 << 26
"""Longest safetensors header that is read; the format allows 100 MB, real ones have some MB."""
_WHOLE_BYTES: Final = 1 << 16
"""Files up to this size are read whole: configurations."""
_NUM_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 1024
_CONFIG: Final = "config.json"
_ADAPTER_CONFIG: Final = "adapter_config.json"


def build_identity(engine: EngineClient, args: Namespace) -> Identity:
    """The target's identity. Reads the headers of the weight files: call it once, at the server's start."""
    config = engine.model_config
    return Identity(
        weights=_weights(config, engine.vllm_config.load_config.download_dir),
        dtype=str(config.dtype).removeprefix("torch."),
        kv_cache_dtype=str(engine.vllm_config.cache_config.cache_dtype),
        quantization=str(config.quantization or ""),
        vllm_version=compat.installed_version(),
        runner="v2" if engine.vllm_config.use_v2_model_runner else "v1",
        noise="fp64" if engine.model_config.use_fp64_gumbel else "fp32",
        chat_template=_template_digest(engine, args),
        tool_parser=args.tool_call_parser or "",
        reasoning_parser=reasoning_parser(engine) or "",
    )


def served_template(engine: EngineClient, args: Namespace) -> str | None:
    """The chat template that the server renders with; None if it has none."""
    from vllm.renderers.chat_utils import load_chat_template

    tokenizer = engine.renderer.get_tokenizer()
    template: str | None = load_chat_template(args.chat_template) or getattr(tokenizer, "chat_template", None)
    return template


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over parts of the weight files, in the order of their names: tells them apart at little cost.

    The parts of each file are name, size, a safetensors header, and 16 samples of 1 KiB spread over it, the
    first bytes among them. Samples, because a fine-tuned model has the headers and sizes of its base. 140 GB
    of weights take some hundred reads. Raises `OSError`.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        with file.open("rb") as opened:
            if size <= _WHOLE_BYTES:
                digest.update(opened.read())
                continue
            if file.suffix == ".safetensors":
                header_bytes = int.from_bytes(opened.read(8), "little")
                digest.update(opened.read(min(header_bytes, _MAX_HEADER_BYTES)))
            for sample in range(_NUM_SAMPLES):
                opened.seek(size * sample // _NUM_SAMPLES)
                digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _weights(config: Any, download_dir: str | None) -> str:
    path = Path(config.model)
    if not path.exists():
        commit = _hub_commit(config, download_dir)
        return f"hub:{commit}" if commit else f"name:{config.model}@{config.revision or ''}"
    return _of_files(path)


def adapter_identity(path: str) -> str:
    """The identity of the LoRA adapter that vLLM has by this path. Reads parts of files that are new here."""
    folder = Path(path).expanduser()
    if folder.exists():
        return _of_files(folder)
    commit = _cached_commit(path, _ADAPTER_CONFIG)
    return f"hub:{commit}" if commit else f"name:{path}"


def _of_files(path: Path) -> str:
    try:
        files = [path] if path.is_file() else [file for file in path.iterdir() if _counts(file)]
        stats = [file.stat() for file in files]
        state = zip(files, ((stat.st_size, stat.st_mtime_ns) for stat in stats), strict=True)
        return f"files:{_digest_as_of(tuple(state))}"
    except OSError as error:
        logger.warning(
            "the weight files of %s cannot be read, so its identity is its path alone: %s", path, error
        )
        return f"name:{path}"


@lru_cache(maxsize=256)
def _digest_as_of(state: tuple[tuple[Path, tuple[int, int]], ...]) -> str:
    """Of files with their sizes and times of change. An adapter's identity is told with each answer."""
    return files_digest(file for file, _ in state)


def _counts(file: Path) -> bool:
    return file.is_file() and (file.suffix in _WEIGHTS or file.name in (_CONFIG, _ADAPTER_CONFIG))


def _hub_commit(config: Any, download_dir: str | None) -> str | None:
    """The commit of the snapshot that was loaded, as vLLM has resolved it or as its cache folder is named."""
    commit: str | None = getattr(config.revision, "commit_hash", None)
    revision = config.revision and str(config.revision)
    return commit or _cached_commit(config.model, _CONFIG, download_dir, revision)


def _cached_commit(
    repository: str, file_name: str, cache_dir: str | None = None, revision: str | None = None
) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repository, file_name, cache_dir=cache_dir, revision=revision)
    except ValueError:  # no name of a repository: an object store's, say
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def _template_digest(engine: EngineClient, args: Namespace) -> str:
    template = served_template(engine, args)
    if template is None:
        return ""
    variables = args.default_chat_template_kwargs or {}
    return hashlib.sha256(json.dumps([template, variables], sort_keys=True).encode()).hexdigest()
