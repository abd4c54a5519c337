"""Tuning results on disk."""

import dataclasses
import json
import logging
from pathlib import Path

import platformdirs
import pytest

from edge_agent.api import SessionMode
from edge_agent.control.tuning.store import LinkClass, TuningKey, TuningStore, default_folder, link_class
from edge_agent.control.tuning.tuner import Observation, TunerState

from .surface import BASE, OPTIMUM

KEY = TuningKey("draft.gguf", "org/target", LinkClass.METRO, SessionMode.BALANCED)
STATE = TunerState((Observation(BASE, 21.5, 64, 0.08), Observation(OPTIMUM, 17.25, 192, 0.05)), OPTIMUM, 17.5)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Into a folder that does not exist yet, over an earlier file, by another store."""
    folder = tmp_path / "state" / "tuning"
    TuningStore(folder).save(KEY, TunerState())
    TuningStore(folder).save(KEY, STATE)
    assert TuningStore(folder).load(KEY) == STATE
    assert [path.suffix for path in folder.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change",
    [
        {"draft": "other.gguf"},
        {"target": "org/other"},
        {"link": LinkClass.FAR},
        {"mode": SessionMode.OFFLOAD},
        {"pass_weight_ms": 5.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_combination_has_its_own_results(tmp_path: Path, change: dict[str, object]) -> None:
    """Another model, link, mode or objective starts afresh."""
    store = TuningStore(tmp_path)
    store.save(KEY, STATE)
    assert store.load(dataclasses.replace(KEY, **change)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"schema": 1}',
        b'{"schema": 1, "key": {}, "state": {"observations": [{"cost_ms": -1}]}}',
    ],
)
def test_a_corrupted_file_is_ignored_with_a_line(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs a search, not an error, and is replaced by the next save."""
    store = TuningStore(tmp_path)
    store.path(KEY).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load(KEY) is None
    assert str(store.path(KEY)) in caplog.text
    store.save(KEY, STATE)
    assert store.load(KEY) == STATE


def test_an_older_file_is_understood(tmp_path: Path) -> None:
    """One that does not tell which observations are trials counts them all."""
    store = TuningStore(tmp_path)
    store.save(KEY, STATE)
    path = store.path(KEY)
    content = json.loads(path.read_bytes())
    del content["state"]["num_uncounted"]
    path.write_text(json.dumps(content))
    assert store.load(KEY) == STATE


def test_impossible_values_are_refused(tmp_path: Path) -> None:
    """A cost of nothing would win every comparison."""
    store = TuningStore(tmp_path)
    store.save(KEY, STATE)
    path = store.path(KEY)
    path.write_bytes(path.read_bytes().replace(b"21.5", b"0.0"))
    assert store.load(KEY) is None


def test_a_file_of_another_version_is_ignored(tmp_path: Path) -> None:
    """Whatever it contains besides its version."""
    store = TuningStore(tmp_path)
    store.path(KEY).write_bytes(b'{"schema": 2, "anything": []}')
    assert store.load(KEY) is None


def test_only_recent_observations_are_kept(tmp_path: Path) -> None:
    """A file does not grow for ever."""
    seen = tuple(Observation(BASE, 1.0 + i, 64, 0.1) for i in range(200))
    store = TuningStore(tmp_path)
    store.save(KEY, TunerState(seen))
    loaded = store.load(KEY)
    assert loaded is not None
    assert loaded.observations == seen[-64:]


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tuning goes on without being kept."""
    (tmp_path / "file").write_text("")
    store = TuningStore(tmp_path / "file" / "tuning")
    with caplog.at_level(logging.WARNING):
        store.save(KEY, STATE)
        store.save(KEY, STATE)
    assert len(caplog.records) == 1


def test_results_belong_to_the_users_state() -> None:
    """Not to the settings, which a user edits, nor to a cache, which may be emptied."""
    assert default_folder() == platformdirs.user_state_path("pipesd") / "tuning"


@pytest.mark.parametrize(
    ("round_trip_ms", "expected"),
    [
        (0.1, "loopback"),
        (2.0, "lan"),
        (9.9, "lan"),
        (10.0, "metro"),
        (30.0, "wan"),
        (79.9, "wan"),
        (80.0, "far"),
    ],
)
def test_links_are_classed_by_round_trip(round_trip_ms: float, expected: str) -> None:
    """A limit belongs to the slower class."""
    assert link_class(round_trip_ms) == expected
