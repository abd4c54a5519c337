"""The ways of sampling that the matrix is made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from edge_agent.generation import SamplingSettings
from openai_gateway.cli.errors import CliError

__all__ = ["MATRIX", "Setting", "selected"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell of the matrix."""

    temperature: float
    top_p: float
    penalties: bool

    @property
    def name(self) -> str:
        """As `--settings` takes it, such as `T=0.7,top_p=0.9,penalties`."""
        return f"T={self.temperature:g},top_p={self.top_p:g},{'penalties' if self.penalties else 'plain'}"

    def sampling(self, num_tokens: int, seed: int) -> SamplingSettings:
        """Exactly `num_tokens` tokens; at temperature 0 the seed says nothing and is left out."""
        return SamplingSettings(
            num_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed if self.temperature else None,
            ignore_eos=True,
            presence_penalty=0.6 if self.penalties else 0.0,
            frequency_penalty=0.4 if self.penalties else 0.0,
            repetition_penalty=1.2 if self.penalties else 1.0,
        )


MATRIX = tuple(Setting(*cell) for cell in product((0.0, 0.7, 1.0), (1.0, 0.9), (False, True)))
"""All cells. At temperature 0 `top_p` must not matter: its cells run like the others."""


def selected(names: Sequence[str] | None) -> tuple[Setting, ...]:
    """The cells with these names; a shorter name, such as `T=0.7`, stands for all that share its parts.

    None: all. Raises `CliError` for a name without a cell.
    """
    if not names:
        return MATRIX
    wanted: dict[Setting, None] = {}
    for name in names:
        parts = set(name.replace(" ", "").split(","))
        cells = [cell for cell in MATRIX if parts <= set(cell.name.split(","))]
        if not cells:
            raise CliError(f"No setting is called {name!r}: try one of {_names()}.", exit_code=2)
        wanted |= dict.fromkeys(cells)
    return tuple(wanted)


def _names() -> str:
    return "; ".join(cell.name for cell in MATRIX)
