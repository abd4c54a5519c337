"""The embedded target's folder: built once, whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipesd_vllm.launch.embedded import (
    MODEL_NAME,
    EmbeddedModelError,
    Progress,
    embedded_gguf,
    ensure_embedded_target,
    run_builder,
)


class FakeBuilder:
    """Writes a small file instead of a model; fails with `error` after writing half of it."""

    def __init__(
        self, error: BaseException | None = None, during: Callable[[], object] = lambda: None
    ) -> None:
        self.error = error
        self.during = during
        self.builds = 0

    def __call__(self, gguf: Path, folder: Path, progress: Progress) -> None:
        self.builds += 1
        assert gguf == embedded_gguf()
        assert list(folder.iterdir()) == []
        progress("building")
        (folder / "config.json").write_text("{")
        self.during()
        if self.error is not None:
            raise self.error
        (folder / "config.json").write_text("{}")


def test_built_once(tmp_path: Path) -> None:
    """The first call builds and reports progress, later ones only return the folder."""
    builder, steps = FakeBuilder(), []
    target = ensure_embedded_target(tmp_path, steps.append, build=builder)
    assert target == ensure_embedded_target(tmp_path, steps.append, build=builder)
    assert (target.name, builder.builds, steps) == (MODEL_NAME, 1, ["building"])
    assert target.is_relative_to(tmp_path / "models")
    assert json.loads((target / "config.json").read_text()) == {}


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_folder_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """A file that lost its content or is gone makes the next call build again."""
    builder = FakeBuilder()
    file = ensure_embedded_target(tmp_path, build=builder) / "config.json"
    file.write_text("") if damage == "truncated" else file.unlink()
    ensure_embedded_target(tmp_path, build=builder)
    assert (builder.builds, file.read_text()) == (2, "{}")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EmbeddedModelError("no")])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """After a failure there is no folder that looks like a model, and the next call succeeds."""
    with pytest.raises(type(error)):
        ensure_embedded_target(tmp_path, build=FakeBuilder(error))
    assert not any(path.name == MODEL_NAME for path in tmp_path.rglob("*"))
    assert ensure_embedded_target(tmp_path, build=FakeBuilder()).is_dir()


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    """Half a model of a process that was killed is neither used nor kept."""
    target = ensure_embedded_target(tmp_path, build=FakeBuilder())
    leftover = target.rename(target.with_name(f".{MODEL_NAME}.partial"))
    ensure_embedded_target(tmp_path, build=FakeBuilder())
    assert target.is_dir()
    assert not leftover.exists()


def test_concurrent_callers_share_one_build(tmp_path: Path) -> None:
    """Two callers at the same time: one builds, the other waits for it and says so."""
    second_waits = threading.Event()
    steps: list[str] = []

    def second() -> None:
        def progress(step: str) -> None:
            steps.append(step)
            second_waits.set()

        ensure_embedded_target(tmp_path, progress, build=builder)

    def during() -> None:
        threads[0].start()
        assert second_waits.wait(60)

    builder = FakeBuilder(during=during)
    threads = [threading.Thread(target=second)]
    ensure_embedded_target(tmp_path, steps.append, build=builder)
    threads[0].join()
    assert builder.builds == 1
    assert steps == ["building", "waiting for another process that is building the model"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """No space left: which disk, how much is needed, what else can be done."""
    full = FakeBuilder(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(
        EmbeddedModelError, match=rf"^The disk that holds {tmp_path}.* is full: free at least 400 MB"
    ):
        ensure_embedded_target(tmp_path, build=full)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A cache folder that is a file is named."""
    (tmp_path / "models").write_text("")
    with pytest.raises(EmbeddedModelError, match=rf"^Cannot write the embedded model to {tmp_path}"):
        ensure_embedded_target(tmp_path, build=FakeBuilder())


def test_a_builder_that_fails_says_why(tmp_path: Path) -> None:
    """The builder runs as a child process; what it fails with becomes the reason."""
    with pytest.raises(EmbeddedModelError, match=r"^Building the embedded model failed \(.*nothing\.gguf"):
        run_builder(tmp_path / "nothing.gguf", tmp_path, lambda _: None)
