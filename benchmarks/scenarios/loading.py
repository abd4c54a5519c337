"""Scenarios read from TOML files: ours by name, others by path."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec

from benchmarks.netlink.model import LinkSpec, PathSpec
from openai_gateway.cli.errors import CliError

__all__ = ["Scenario", "load_scenario", "scenario_names"]

_FOLDER: Final = Path(__file__).parent
_AT_A_RATE: Final = re.compile(r"(.+)-(\d+(?:\.\d+)?)")


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pair of models, an edge and a path. `name` is the file's, and need not be said in it."""

    name: str = ""
    title: str
    draft: str
    """"minus-3-layers", "minus-6-layers" or what `--draft` takes."""
    target: str
    """"depth-x2" to "depth-x9" or what `--target` takes."""
    gamma_ms: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Least time of a draft token; 0: as fast as this machine is."""
    up: LinkSpec
    down: LinkSpec

    @property
    def path(self) -> PathSpec:
        return PathSpec(self.up, self.down)


def scenario_names() -> list[str]:
    """Those that come along."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_scenario(name: str) -> Scenario:
    """One of `scenario_names()`, or the path of a TOML file; `NAME-40`: with an uplink of 40 Mbit/s.

    Raises `CliError`.
    """
    path = Path(name).expanduser() if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    match = _AT_A_RATE.fullmatch(name)
    if match is not None and not path.is_file() and (_FOLDER / f"{match[1]}.toml").is_file():
        base = load_scenario(match[1])
        up = msgspec.structs.replace(base.up, mbit=float(match[2]), mbit_trace=())
        return msgspec.structs.replace(base, name=name, title=f"{base.title}; {match[2]} Mbit/s up", up=up)
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert({**fields, "name": path.stem}, Scenario)
    except FileNotFoundError as error:
        known = ", ".join(scenario_names())
        raise CliError(f"There is no scenario {name!r}: name a TOML file or one of {known}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CliError(f"The scenario {path} cannot be used: {error}.") from error
