"""Tuning results on disk, one file per pair of models, link class and objective."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import platformdirs

from edge_agent.api import SessionMode
from edge_agent.control.tuning.tuner import TunerState
from edge_agent.files import replace_file

__all__ = ["LinkClass", "TuningKey", "TuningStore", "default_folder", "link_class"]

logger = logging.getLogger("pipesd.tuning")

_SCHEMA: Final = 1
_MAX_OBSERVATIONS: Final = 64


class LinkClass(enum.StrEnum):
    """Links on which about the same parameters are good."""

    LOOPBACK = "loopback"
    LAN = "lan"
    METRO = "metro"
    WAN = "wan"
    FAR = "far"


_LIMITS_MS: Final = {
    LinkClass.LOOPBACK: 2.0,
    LinkClass.LAN: 10.0,
    LinkClass.METRO: 30.0,
    LinkClass.WAN: 80.0,
}


def link_class(round_trip_ms: float) -> LinkClass:
    """Below 2 ms loopback, 10 lan, 30 metro, 80 wan; far from there."""
    return next((link for link, limit_ms in _LIMITS_MS.items() if round_trip_ms < limit_ms), LinkClass.FAR)


@dataclass(frozen=True, slots=True)
class TuningKey:
    """The conditions of a result. Costs of another mode or lambda are not comparable."""

    draft: str
    target: str
    link: LinkClass
    mode: SessionMode
    pass_weight_ms: float = 0.0


class _Versioned(msgspec.Struct):
    schema: int


class _Document(msgspec.Struct):
    key: TuningKey
    state: TunerState
    schema: int = _SCHEMA


def default_folder() -> Path:
    """Where results are kept unless told otherwise."""
    return platformdirs.user_state_path("pipesd") / "tuning"


class TuningStore:
    """Loads and saves tuner states. A store that does not work costs a search, never an answer."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()
        self._has_failed = False

    def path(self, key: TuningKey) -> Path:
        """The file of `key`."""
        digest = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
        return self._folder / f"{digest[:24]}.json"

    def load(self, key: TuningKey) -> TunerState | None:
        """What was saved under `key`; None if nothing was, or nothing this version understands."""
        path = self.path(key)
        try:
            content = path.read_bytes()
            if msgspec.json.decode(content, type=_Versioned).schema != _SCHEMA:
                logger.info("tuning results in %s are of another version: starting afresh", path)
                return None
            return msgspec.json.decode(content, type=_Document).state
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("tuning results in %s cannot be used (%s): starting afresh", path, error)
            return None

    def save(self, key: TuningKey, state: TunerState) -> None:
        """Replace what is there, all or nothing. A failure is logged once."""
        recent = dataclasses.replace(state, observations=state.observations[-_MAX_OBSERVATIONS:])
        content = msgspec.json.format(msgspec.json.encode(_Document(key, recent)))
        try:
            replace_file(self.path(key), content)
        except OSError as error:
            if not self._has_failed:
                logger.warning("tuning results cannot be saved: %s", error)
            self._has_failed = True
