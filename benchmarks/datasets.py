"""The two kinds of task that the literature measures on: code (HumanEval) and maths (GSM8K)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.harness.prompts import HUMANEVAL, Prompt, load_prompts
from edge_agent.policies.registry import Task
from openai_gateway.cli.errors import CliError

__all__ = ["DATASETS", "GSM8K", "available", "find_specbench", "load_dataset"]

GSM8K: Final = "gsm8k"
DATASETS: Final[Mapping[str, Task]] = MappingProxyType({HUMANEVAL: "code", GSM8K: "maths"})
_VARIABLE: Final = "PIPESD_SPECBENCH"
_FILE: Final = "specbench_prompts.jsonl"
_PLACES: Final = (".", "data", "../shared/data")
_CATEGORY: Final = "math_reasoning/"  # Spec-Bench took these 80 questions from GSM8K


def find_specbench(named: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Spec-Bench's prompts: as named, by `PIPESD_SPECBENCH`, or where they usually lie."""
    if named is not None:
        return named
    if environ.get(_VARIABLE):
        return Path(environ[_VARIABLE])
    places = (Path(place) / _FILE for place in _PLACES)
    return next((place for place in places if place.is_file()), None)


def available(wanted: Sequence[str] | None, specbench: Path | None) -> list[str]:
    """Names of the data sets to run: those wanted, or all whose prompts are there. Raises `CliError`."""
    if wanted is None:
        return [HUMANEVAL, *([GSM8K] if specbench is not None else [])]
    for name in wanted:
        if name not in DATASETS:
            raise CliError(f"There is no data set {name!r}: choose from {', '.join(DATASETS)}.", exit_code=2)
    return list(dict.fromkeys(wanted))


def load_dataset(name: str, specbench: Path | None) -> list[Prompt]:
    """All its prompts. Raises `CliError` with what to do if they are not there."""
    if name == HUMANEVAL:
        return load_prompts(HUMANEVAL)
    if specbench is None:
        raise CliError(
            "The GSM8K questions come from Spec-Bench's prompt file, which is not part of this package: "
            f"name it with --specbench FILE or in {_VARIABLE}."
        )
    prompts = [prompt for prompt in load_prompts(str(specbench)) if prompt.name.startswith(_CATEGORY)]
    if not prompts:
        raise CliError(f"{specbench} has no prompts of the category {_CATEGORY.rstrip('/')}.")
    return prompts
