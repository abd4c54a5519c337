"""Flags that the benchmarks share; those of the edge agent are the ones of `pipesd up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = [
    "CONTEXT_SETTINGS",
    "METAVAR",
    "Cloud",
    "Dtype",
    "GammaMs",
    "JsonFile",
    "NumPrompts",
    "Prompts",
    "RttMs",
    "SpecBench",
    "Target",
]

# As for `pipesd up`, flags for vLLM come after `--`.
CONTEXT_SETTINGS: Final = {"allow_extra_args": True}
METAVAR: Final = "[OPTIONS] [-- any vLLM flag...]"

_SERVER: Final = "Server"

Cloud = Annotated[
    str | None,
    typer.Option(
        "--cloud",
        help="A running server, such as http://gpu:8000, instead of one that is started here.",
        metavar="URL",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="Target model: embedded (default), a path or a Hugging Face id.",
        metavar="MODEL",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="What the target computes in, such as float32 or bfloat16 (default: the server's choice).",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        help="humaneval (default) or a JSONL file in Spec-Bench's format; may be repeated.",
        metavar="FILE",
        show_default=False,
    ),
]
NumPrompts = Annotated[int, typer.Option("--num", min=1, help="How many prompts of each.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the figures to this file, too.", metavar="FILE", show_default=False),
]
RttMs = Annotated[
    float,
    typer.Option(
        "--rtt-ms",
        min=0.0,
        help="Delay the link to the server by this round trip, for all ways alike.",
        rich_help_panel="Emulation",
    ),
]
GammaMs = Annotated[
    float,
    typer.Option(
        "--edge-gamma-ms",
        min=0.0,
        help="Least time a draft token takes on the edge (43 laptop, 70 phone, 150 IoT, inf: hung).",
        rich_help_panel="Emulation",
    ),
]
SpecBench = Annotated[
    Path | None,
    typer.Option(
        "--specbench",
        help="Spec-Bench's prompt file, which has the GSM8K questions (default: PIPESD_SPECBENCH).",
        metavar="FILE",
        show_default=False,
    ),
]
