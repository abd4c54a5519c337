"""Options that commands share, and `takes`, which adds them to a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edge_agent.settings import EdgeSettings
from openai_gateway.cli import options as edge
from openai_gateway.cli.errors import CliError

__all__ = [
    "DRAFTING",
    "EMULATION",
    "SERVER",
    "THRESHOLDS",
    "Flags",
    "JsonFile",
    "NumPrompts",
    "Prompts",
    "SpecBench",
    "Stock",
    "Tokens",
    "names_in",
    "numbers_in",
    "takes",
]

Command = Callable[..., None]

_SERVER: Final = "Server"
_EMULATION: Final = "Emulation"


def _option(name: str, text: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(name, help=text, show_default=False, rich_help_panel=panel, **more)


SERVER: Final[Mapping[str, Any]] = {
    "cloud": Annotated[
        str | None,
        _option(
            "--cloud",
            "A running server, such as http://gpu:8000, instead of one that is started here.",
            _SERVER,
            metavar="URL",
        ),
    ],
    "api_key": edge.annotated("api_key"),
    "target": Annotated[
        str | None,
        _option(
            "--target",
            "Target model: embedded (default), a path or a Hugging Face id.",
            _SERVER,
            metavar="MODEL",
        ),
    ],
    "dtype": Annotated[
        str | None,
        _option(
            "--dtype",
            "What the target computes in, such as float32 or bfloat16 (default: the server's choice).",
            _SERVER,
        ),
    ],
    "config_file": edge.annotated("config_file"),
}
"""The server that is measured; as for `pipesd up`, flags for vLLM come after `--`."""
THRESHOLDS: Final[Mapping[str, Any]] = {
    "draft": edge.annotated("draft"),
    "draft_threads": edge.annotated("draft_threads"),
    "patience_ms": edge.annotated("patience_ms"),
    "max_ahead": edge.annotated("max_ahead"),
    "max_window": edge.annotated("max_window"),
    "sequence_threshold": edge.annotated("sequence_threshold"),
    "token_threshold": edge.annotated("token_threshold"),
}
DRAFTING: Final[Mapping[str, Any]] = {
    **THRESHOLDS,
    "mode": edge.annotated("mode"),
    "policy": edge.annotated("policy"),
    "trace": edge.annotated("trace"),
}
"""Settings of the edge agent, with the flags of `pipesd up`."""
EMULATION: Final[Mapping[str, Any]] = {
    "rtt_ms": Annotated[
        float | None,
        _option(
            "--rtt-ms", "Delay the link to the server by this round trip, for all alike.", _EMULATION, min=0.0
        ),
    ],
    "edge_gamma_ms": Annotated[
        float | None,
        _option(
            "--edge-gamma-ms",
            "Least time a draft token takes on the edge (43 laptop, 70 phone, 150 IoT, inf: hung).",
            _EMULATION,
            min=0.0,
        ),
    ],
}

Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens to generate after each prompt.")]
Prompts = Annotated[
    list[str] | None,
    _option(
        "--prompts",
        "humaneval (default) or a JSONL file in Spec-Bench's format; may be repeated.",
        metavar="FILE",
    ),
]
NumPrompts = Annotated[int, typer.Option("--num", min=1, help="How many prompts of each.")]
Stock = Annotated[
    bool, typer.Option("--stock", help="Compare with vLLM without pipesd, started here beside the server.")
]
JsonFile = Annotated[Path | None, _option("--json", "Write the figures to this file, too.", metavar="FILE")]
SpecBench = Annotated[
    Path | None,
    _option(
        "--specbench",
        "Spec-Bench's prompt file, which has the GSM8K questions.",
        metavar="FILE",
        envvar="PIPESD_SPECBENCH",
    ),
]


def names_in(text: str, flag: str, choices: Collection[str] = ()) -> list[str]:
    """The names in a flag's list with commas. Raises `CliError` for none, and for one that is no choice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise CliError(f"{flag} takes a list such as a,b.", exit_code=2)
    if choices and (unknown := [name for name in names if name not in choices]):
        raise CliError(f"{flag} has no {unknown[0]!r}: choose from {', '.join(choices)}.", exit_code=2)
    return names


def numbers_in(text: str, flag: str, least: int = 1) -> list[int]:
    """The numbers in a flag's list with commas. Raises `CliError` for anything else, or less than `least`."""
    names = names_in(text, flag)
    if not all(name.isdecimal() and int(name) >= least for name in names):
        raise CliError(f"{flag} takes numbers from {least} on, such as {least},4,16.", exit_code=2)
    return [int(name) for name in names]


@dataclass(frozen=True, slots=True)
class Flags:
    """What the shared options of a command were given; `vllm` came after `--`."""

    given: Mapping[str, Any]
    vllm: tuple[str, ...] = ()

    @property
    def edge(self) -> dict[str, Any]:
        """Those that are settings of the edge agent, by the settings' names; None: not given."""
        return {name: value for name, value in self.given.items() if name in EdgeSettings.model_fields}

    @property
    def rtt_s(self) -> float:
        return (self.given.get("rtt_ms") or 0.0) / 1e3

    @property
    def gamma_s(self) -> float:
        return (self.given.get("edge_gamma_ms") or 0.0) / 1e3


def takes(
    app: typer.Typer, *groups: Mapping[str, Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of `app` that also takes the options of `groups`, as its `flags`."""
    shared = {name: annotation for group in groups for name, annotation in group.items()}

    def decorate(function: Command) -> Command:
        def run(ctx: typer.Context, **given: Any) -> None:
            flags = Flags({name: given.pop(name) for name in shared}, tuple(ctx.args))
            function(flags=flags, **given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own if parameter.name != "flags"),
            *(inspect.Parameter(name, keyword, default=None, annotation=a) for name, a in shared.items()),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(
            context_settings={"allow_extra_args": True}, options_metavar="[OPTIONS] [-- any vLLM flag...]"
        )(run)
        return function

    return decorate
