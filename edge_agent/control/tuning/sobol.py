"""Sobol points with a random digital shift, in up to six dimensions. Pure, standard library only.

Direction numbers: Joe and Kuo, "Constructing Sobol sequences with better two-dimensional projections" (2008).
Written out because the libraries that have them take a second to import.
"""

from __future__ import annotations

import random
from typing import Final

from edge_agent.control.tuning.space import Point

__all__ = ["MAX_DIMENSIONS", "sobol_point"]

_NUM_BITS: Final = 30
_POLYNOMIALS: Final = (
    (0, (1,) * _NUM_BITS),  # the van der Corput sequence
    (0, (1,)),
    (1, (1, 3)),
    (1, (1, 3, 1)),
    (2, (1, 1, 1)),
    (1, (1, 1, 3, 3)),
)
"""Per dimension: the primitive polynomial's inner coefficients and the first direction numbers."""
MAX_DIMENSIONS: Final = len(_POLYNOMIALS)


def _directions(coefficients: int, first: tuple[int, ...]) -> tuple[int, ...]:
    numbers, degree = list(first), len(first)
    for k in range(degree, _NUM_BITS):
        new = numbers[k - degree] ^ (numbers[k - degree] << degree)
        for i in range(1, degree):
            if coefficients >> (degree - 1 - i) & 1:
                new ^= numbers[k - i] << i
        numbers.append(new)
    return tuple(number << (_NUM_BITS - 1 - k) for k, number in enumerate(numbers))


_DIRECTIONS: Final = tuple(_directions(*polynomial) for polynomial in _POLYNOMIALS)


def sobol_point(index: int, num_dimensions: int, seed: int | None = None) -> Point:
    """Point `index` of the sequence in [0, 1)^`num_dimensions`, shifted by `seed` (None: as it is)."""
    gray = index ^ (index >> 1)
    shifts = random.Random(seed)
    point = []
    for directions in _DIRECTIONS[:num_dimensions]:
        bits = 0 if seed is None else shifts.getrandbits(_NUM_BITS)
        for k, direction in enumerate(directions):
            if gray >> k & 1:
                bits ^= direction
        point.append(bits / (1 << _NUM_BITS))
    return tuple(point)
