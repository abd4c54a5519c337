"""The texts of this machine that drafts are looked up in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sim import models
from edge_agent.drafting.library import (
    HISTORY,
    MAX_HISTORY_TOKENS,
    DraftLibrary,
    readable_texts,
    with_answer,
)
from edge_agent.drafting.lookup import LookupRates, LookupSource
from edge_agent.errors import ConfigError


def write(folder: Path, name: str, text: str | bytes, age_s: int = 0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (1000 - age_s, 1000 - age_s))
    return path


def ids(text: str) -> list[int]:
    return models.tokenizer().encode(text, add_special_tokens=False).ids


def proposed(library: DraftLibrary, prompt: Sequence[int]) -> list[int]:
    source = LookupSource(prompt, LookupRates(), library.libraries())
    return [draft.token_id for draft in source.propose()]


def test_the_newest_texts_are_read_and_nothing_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path, "old.md", "old", age_s=9)
    write(tmp_path, "src/new.py", "new")
    write(tmp_path, "src/.secret", "hidden")
    write(tmp_path, ".git/config", "hidden")
    write(tmp_path, "node_modules/x.js", "installed")
    write(tmp_path, "image.png", b"\x89PNG\0\xff")
    write(tmp_path, "zeros", "a\0b")
    (tmp_path / "link").symlink_to(tmp_path / "old.md")
    assert readable_texts([tmp_path]) == ["old", "new"]
    assert readable_texts([tmp_path], max_bytes=3) == ["new"]
    assert readable_texts([tmp_path / "old.md", tmp_path / "gone"]) == ["old"]


async def test_drafts_come_from_chosen_files(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt", "the quick brown fox jumps over the lazy dog")
    library = DraftLibrary([str(tmp_path)], tmp_path / "cache")
    assert library.libraries() == []
    await library.load(models.bundle())
    prompt, expected = ids("the quick brown"), ids("the quick brown fox jumps")
    run = proposed(library, prompt)
    assert expected[: len(prompt) + len(run)] == prompt + run[: len(expected) - len(prompt)]
    assert not (tmp_path / "cache").exists(), "files are not copied"


async def test_answers_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt", "some text")
    library = DraftLibrary([str(tmp_path / "notes.txt")], tmp_path / "cache")
    await library.load(models.bundle())
    library.remember(range(300, 320))
    await library.close()
    assert proposed(library, [300, 301, 302]) == []
    assert not (tmp_path / "cache").exists()


async def test_answers_are_drafted_from_later_and_after_a_restart(tmp_path: Path) -> None:
    library = DraftLibrary([HISTORY], tmp_path / "cache")
    await library.load(models.bundle())
    library.remember(range(300, 320))
    library.remember(range(400, 420))
    await library.close()
    assert proposed(library, [300, 301, 302])[:3] == [303, 304, 305]
    [file] = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    again = DraftLibrary([HISTORY], tmp_path / "cache")
    await again.load(models.bundle())
    assert proposed(again, [400, 401, 402])[:3] == [403, 404, 405]


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xff\xff\x7f" * 8, b"\x01\0\0\0" * 5])
async def test_a_damaged_history_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    library = DraftLibrary([HISTORY], tmp_path)
    await library.load(models.bundle())
    library.remember(range(300, 320))
    await library.close()
    for file in os.listdir(tmp_path):
        (tmp_path / file).write_bytes(content)
    again = DraftLibrary([HISTORY], tmp_path)
    await again.load(models.bundle())
    again.remember(range(500, 520))
    await again.close()
    assert proposed(again, [500, 501, 502])[:2] == [503, 504]


def test_an_answer_that_goes_on_replaces_what_it_continues_and_the_oldest_go_first() -> None:
    first, second = np.arange(10, dtype=np.int32), np.arange(50, 60, dtype=np.int32)
    longer = np.arange(20, dtype=np.int32)
    assert [len(each) for each in with_answer([first, second], longer)] == [10, 20]
    large = np.zeros(MAX_HISTORY_TOKENS - 15, dtype=np.int32)
    assert [len(each) for each in with_answer([second, large], longer[:12])] == [len(large), 12]
    assert [len(each) for each in with_answer([second, large], longer)] == [20]


async def test_a_tokenizer_that_cannot_be_read_means_no_drafts_from_files(tmp_path: Path) -> None:
    from dataclasses import replace

    write(tmp_path, "notes.txt", "some text")
    library = DraftLibrary([str(tmp_path)], tmp_path / "cache")
    await library.load(replace(models.bundle(), tokenizer_json="{}"))
    assert library.libraries() == []


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--draft-from"):
        DraftLibrary([str(tmp_path / "gone")], tmp_path)
