"""Recorded traces of (agreement, confidence): what a draft says at each position of the target's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.simulation.agreement import TracePoint, greedy_text, trace_of
from edge_agent.drafting import Drafter
from openai_gateway.cli.errors import CliError

__all__ = ["TraceSet", "read_traces", "record_traces", "write_traces"]


class TraceSet(msgspec.Struct, frozen=True):
    """By prompt's name. `draft` says whose they are."""

    draft: str
    traces: dict[str, list[TracePoint]]


def record_traces(
    target: Drafter, draft: Drafter, prompts: Mapping[str, Sequence[int]], num_tokens: int
) -> dict[str, list[TracePoint]]:
    """The target's greedy continuation of each prompt, as the draft sees it."""
    return {
        name: list(trace_of(draft, prompt, greedy_text(target, prompt, num_tokens)))
        for name, prompt in prompts.items()
    }


def write_traces(path: Path, traces: TraceSet) -> None:
    path.write_bytes(msgspec.json.encode(traces))


def read_traces(path: Path) -> TraceSet:
    """Raises `CliError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TraceSet)
    except (OSError, msgspec.DecodeError) as error:
        raise CliError(f"{path} is no file of traces ({error}): record one with --record.") from error
