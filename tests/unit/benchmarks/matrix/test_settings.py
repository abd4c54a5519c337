"""The matrix's cells and their names."""

import pytest

from benchmarks.matrix.settings import MATRIX, selected
from openai_gateway.cli.errors import CliError


def test_all_cells_are_there() -> None:
    """Three temperatures, two nuclei, with and without penalties; each has a name of its own."""
    assert len({cell.name for cell in MATRIX}) == len(MATRIX) == 12
    assert selected(None) == MATRIX


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["T=0"], 4),
        (["T=1,top_p=0.9"], 2),
        (["plain"], 6),
        (["T=0.7,top_p=1,penalties"], 1),
        (["T=0", "plain"], 8),
    ],
)
def test_parts_of_a_name_choose_cells(names: list[str], count: int) -> None:
    """A name stands for all cells that have its parts; none comes twice."""
    assert len(selected(names)) == len(set(selected(names))) == count


def test_an_unknown_name() -> None:
    """It is refused with the names there are."""
    with pytest.raises(CliError, match=r"'T=2'.*T=0,top_p=1,plain"):
        selected(["T=2"])


def test_sampling() -> None:
    """Greedy has no seed; penalties are all three."""
    for cell in MATRIX:
        sampling = cell.sampling(8, 5)
        assert (sampling.seed is None) == (cell.temperature == 0)
        penalties = sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty
        assert (penalties == (0.0, 0.0, 1.0)) == (not cell.penalties)
        assert sampling.ignore_eos
