"""Which draft model fits a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.drafting import DraftFile, chosen, family_of, fits, fitting, hub_drafts
from edge_agent.errors import ModelError
from edge_agent.settings import EdgeSettings
from pipesd_vllm.wire import Fingerprint, fingerprint

TOKENS = ["a", "b", "Ġc", "<|end|>"]


def settings(draft: str = "embedded") -> EdgeSettings:
    return EdgeSettings(cloud_url="http://verifier", draft=draft)


def model(folder: Path, name: str, tokens: list[str], **numbers: int) -> DraftFile:
    gguf = pytest.importorskip("gguf")
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    for key, number in numbers.items():
        writer.add_uint16(key.replace("__", "."), number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return DraftFile(f"hf:org/{name}/{name}.gguf", path, path.stat().st_size)


def test_draft_models_in_the_hub_cache(tmp_path: Path) -> None:
    """Each GGUF file once, named as --draft takes it, with its size."""
    for revision in ("a", "b"):
        folder = tmp_path / "models--org--repo-name" / "snapshots" / revision / "sub"
        folder.mkdir(parents=True)
        (folder / "m.gguf").write_bytes(b"x" * 10)
    [found] = hub_drafts(tmp_path)
    assert (found.setting, found.num_bytes) == ("hf:org/repo-name/sub/m.gguf", 10)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "Llama 3"),
        ("Meta-Llama3-8B", "Llama 3"),
        ("Qwen/Qwen3-32B-AWQ", "Qwen 3"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen 2.5 Coder"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen 2.5"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "Qwen 2.5"),
        ("google/gemma-3-27b-it", "Gemma 3"),
        ("google/gemma-3n-E4B-it", None),
        ("mistralai/Mistral-Large", None),
    ],
)
def test_families_go_by_the_targets_name(target: str, name: str | None) -> None:
    found = family_of(target)
    assert (None if found is None else found.name) == name


def test_a_file_fits_if_its_first_tokens_are_the_targets(tmp_path: Path) -> None:
    """Padding beyond them does not matter; another token, a missing one and another file do."""
    target = fingerprint(TOKENS)
    assert fits(model(tmp_path, "same", TOKENS).path, target)
    assert fits(model(tmp_path, "padded", [*TOKENS, "<pad>"]).path, target)
    assert not fits(model(tmp_path, "shorter", TOKENS[:-1]).path, target)
    assert not fits(model(tmp_path, "other", [*TOKENS[:-1], "x"]).path, target)
    (junk := tmp_path / "junk.gguf").write_bytes(b"no model")
    assert not fits(junk, target)
    assert not fits(tmp_path / "missing.gguf", target)


def test_parts_and_embedding_models_fit_nobody(tmp_path: Path) -> None:
    """The first part of a large model is small and has its vocabulary; one for embeddings writes no text."""
    target = fingerprint(TOKENS)
    assert not fits(model(tmp_path, "part", TOKENS, split__count=9).path, target)
    assert not fits(model(tmp_path, "vectors", TOKENS, llama__pooling_type=3).path, target)
    assert fits(model(tmp_path, "whole", TOKENS, split__count=1).path, target)


def test_the_first_that_fits_takes_the_defaults_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A draft that was named stays, and so does the default where it fits or nothing does."""
    monkeypatch.setattr("edge_agent.drafting.choice.can_draft", lambda: True)
    target = fingerprint(TOKENS)
    other, good = model(tmp_path, "other", ["z", *TOKENS]), model(tmp_path, "good", TOKENS)
    assert chosen(settings(), target, [other, good]).draft == good.setting
    assert good.setting in caplog.text
    assert chosen(settings("none"), target, [good]).draft == "none"
    assert chosen(settings(), target, [other]).draft == "embedded"
    embedded = DraftFile("embedded", good.path, 1)
    assert chosen(settings(), target, [embedded, good]).draft == "embedded"
    assert chosen(settings(), Fingerprint(4, "0"), [good]).draft == "embedded"


def test_another_target_is_drafted_for_by_what_fits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft that is named, one at hand, or none: none drafts in another vocabulary beside the first."""
    monkeypatch.setattr("edge_agent.drafting.models.can_draft", lambda: True)
    target = fingerprint(TOKENS)
    other, good = model(tmp_path, "other", ["z", *TOKENS]), model(tmp_path, "good", TOKENS)
    best = model(tmp_path, "best", [*TOKENS, "<pad>"])
    assert fitting(settings(str(best.path)), target, [good]).draft == str(best.path)
    assert fitting(settings(str(other.path)), target, [other, good]).draft == good.setting
    assert fitting(settings(str(other.path)), target, [other]).draft == "none"
    assert fitting(settings(), target, [DraftFile("embedded", good.path, 1)]).draft == "embedded"
    assert fitting(settings(), target, [other]).draft == "none"
    assert fitting(settings("none"), target, [good]).draft == "none"
    with pytest.raises(ModelError):
        fitting(settings(str(tmp_path / "missing.gguf")), target, [good])


def test_without_llama_cpp_nothing_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.drafting.choice.can_draft", lambda: False)
    good = model(tmp_path, "good", TOKENS)
    assert chosen(settings(), fingerprint(TOKENS), [good]).draft == "embedded"
