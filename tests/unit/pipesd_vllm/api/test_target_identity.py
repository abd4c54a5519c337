"""Who the target is: a digest of its weight files that reads little of them, and what the engine says."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipesd_vllm.api import target_identity
from pipesd_vllm.api.target_identity import adapter_identity, build_identity, files_digest
from pipesd_vllm.wire import Identity

SIZE = 300_000
NAMES = ["model.safetensors", "pytorch_model.bin", "model.pt", "model.gguf"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_weights(file: Path, seed: int = 1, header: dict[str, Any] | None = None, size: int = SIZE) -> None:
    """A file of the form that its name says, with random weights."""
    data = random.Random(seed).randbytes(size)
    if file.suffix == ".safetensors":
        described = json.dumps(header or {"w": {"dtype": "BF16"}}).encode()
        data = len(described).to_bytes(8, "little") + described + data
    file.write_bytes(data)


def digest(folder: Path) -> str:
    return files_digest(folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_of_the_same_form_are_other_weights(tmp_path: Path, name: str) -> None:
    """A fine-tuned model has names, headers and sizes of its base and another digest; a copy has the same."""
    digests = []
    for place, seed in [("a", 1), ("b", 1), ("c", 2)]:
        (tmp_path / place).mkdir()
        write_weights(tmp_path / place / name, seed)
        digests.append(digest(tmp_path / place))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_grows_or_is_renamed_counts(tmp_path: Path, name: str) -> None:
    """Sizes and names are part of the digest, whatever the format."""
    write_weights(tmp_path / name)
    digests = {digest(tmp_path)}
    with (tmp_path / name).open("ab") as opened:
        opened.write(b"\0")
    digests.add(digest(tmp_path))
    (tmp_path / name).rename(tmp_path / f"other-{name}")
    digests.add(digest(tmp_path))
    assert len(digests) == 3


def test_an_adapters_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when they have changed, by their sizes and times: each answer tells the identity."""
    read = []
    monkeypatch.setattr(target_identity, "files_digest", lambda files: read.append(1) or files_digest(files))
    write_weights(file := tmp_path / "adapter_model.safetensors")
    first = [adapter_identity(str(tmp_path)) for _ in range(3)]
    assert (len(set(first)), len(read)) == (1, 1)
    write_weights(file, seed=2)
    os.utime(file, ns=(1, 1))
    assert adapter_identity(str(tmp_path)) != first[0]
    assert len(read) == 2


def test_a_header_counts_beyond_the_samples(tmp_path: Path) -> None:
    """The whole header of a safetensors file is read: a change in the middle of a long one is seen."""
    digests = set()
    for dtype in ("BF16", "F16"):
        names = {f"layer.{i}": {"dtype": "BF16"} for i in range(1000)}
        header = {**names, "layer.500": {"dtype": dtype.ljust(4)}}
        write_weights(tmp_path / "model.safetensors", header=header)
        digests.add(digest(tmp_path))
    assert len(digests) == 2


@pytest.mark.parametrize("claimed", [0, 2**40, 2**64 - 1])
def test_a_file_that_only_claims_to_be_safetensors(tmp_path: Path, claimed: int) -> None:
    """A header longer than the file is read as far as there is something."""
    (tmp_path / "model.safetensors").write_bytes(claimed.to_bytes(8, "little") + bytes(SIZE))
    assert len(digest(tmp_path)) == 64


def test_a_large_file_is_hardly_read(tmp_path: Path) -> None:
    """Of a file of 20 GB (with holes, so that it takes no room) some KiB are read."""
    with (tmp_path / "model.bin").open("wb") as opened:
        opened.truncate(20 * 1000**3)
    assert len(digest(tmp_path)) == 64


@pytest.fixture
def identity(tmp_path: Path) -> Callable[..., Identity]:
    """`identity(**changes)`: that of a server of the folder `tmp_path`, started as `changes` say."""
    pytest.importorskip("vllm")
    write_weights(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")

    def make(**changes: Any) -> Identity:
        told: dict[str, Any] = {
            "model": str(tmp_path),
            "revision": None,
            "dtype": "torch.bfloat16",
            "quantization": None,
            "cache_dtype": "auto",
            "v2": True,
            "fp64": False,
            "template": "{{ messages }}",
            "variables": None,
            "tool_parser": None,
            "reasoning_parser": "",
            **changes,
        }
        tokenizer = SimpleNamespace(chat_template=told["template"])
        engine: Any = SimpleNamespace(
            model_config=SimpleNamespace(
                model=told["model"],
                revision=told["revision"],
                dtype=told["dtype"],
                quantization=told["quantization"],
                use_fp64_gumbel=told["fp64"],
            ),
            vllm_config=SimpleNamespace(
                use_v2_model_runner=told["v2"],
                load_config=SimpleNamespace(download_dir=str(tmp_path / "hub")),
                cache_config=SimpleNamespace(cache_dtype=told["cache_dtype"]),
                structured_outputs_config=SimpleNamespace(reasoning_parser=told["reasoning_parser"]),
            ),
            renderer=SimpleNamespace(get_tokenizer=lambda: tokenizer),
        )
        args: Any = SimpleNamespace(
            chat_template=None,
            default_chat_template_kwargs=told["variables"],
            tool_call_parser=told["tool_parser"],
        )
        return build_identity(engine, args)

    return make


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dtype": "torch.float16"}, "dtype"),
        ({"quantization": "fp8"}, "quantization"),
        ({"cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"v2": False}, "runner"),
        ({"fp64": True}, "noise"),
        ({"template": "{{ other }}"}, "chat_template"),
        ({"variables": {"enable_thinking": False}}, "chat_template"),
        ({"tool_parser": "hermes"}, "tool_parser"),
        ({"reasoning_parser": "qwen3"}, "reasoning_parser"),
        ({"model": "org/name"}, "weights"),
    ],
    ids=lambda each: each if isinstance(each, str) else "-",
)
def test_what_a_server_was_started_with(
    identity: Callable[..., Identity], change: dict[str, Any], field: str
) -> None:
    """Each of it is one field of the identity; started in the same way again, it is the same."""
    assert identity().differences(identity(**change)) == [field]
    assert identity(**change) == identity(**change)


def test_a_folder_is_known_by_its_files(identity: Callable[..., Identity], tmp_path: Path) -> None:
    """Weights and configuration count, what a download leaves beside them does not; a path is no identity."""
    first = identity().weights
    assert first.startswith("files:")
    (tmp_path / "README.md").write_text("nothing of the model", encoding="utf-8")
    assert identity().weights == first
    (tmp_path / "config.json").write_text('{"rope_theta": 1}', encoding="utf-8")
    assert identity().weights != first
    assert identity(model=str(tmp_path / "model.safetensors")).weights.startswith("files:")


def test_a_repository_is_known_by_its_commit(identity: Callable[..., Identity], tmp_path: Path) -> None:
    """As vLLM resolved it, else as the cache on the disk says, else by name and revision."""

    class Resolved(str):
        commit_hash = COMMIT

    assert identity(model="org/name", revision=Resolved("main")).weights == f"hub:{COMMIT}"
    assert identity(model="org/name", revision="main").weights == "name:org/name@main"
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    assert identity(model="org/name").weights == f"hub:{COMMIT}"
    assert identity(model="s3://bucket/a/b").weights == "name:s3://bucket/a/b@"
