"""Flags that are settings of the edge agent, made of the settings' fields.

The settings are imported when a command's flags are asked for: `pipesd --help` does without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["Flag", "annotated", "documentation", "flags", "given", "with_settings"]

_META: Final = "pipesd.settings"
_METAVARS: Final = {
    "cloud_url": "URL",
    "config_file": "FILE",
    "draft": "MODEL",
    "otel_endpoint": "URL",
    "ca_file": "FILE",
    "trace": "FILE",
    "replicas": "URL",
    "other_targets": "URL",
    "draft_from": "PATH",
    "listen_host": "ADDRESS",
    "allowed_hosts": "NAME",
    "allow_origins": "ORIGIN",
}
_SHORT: Final = {"config_file": "--config", "cloud_url": "--cloud-url"}
"""Second names of flags."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting's flag; `kind` is what a value is read as, `choices` are all there are, if they are few."""

    setting: str
    names: tuple[str, ...]
    kind: type
    is_list: bool
    choices: tuple[str, ...]
    text: str
    default: str

    @property
    def metavar(self) -> str | None:
        """What stands for its value in the help; None: the kind's name, or nothing for a switch."""
        if self.choices:
            return "|".join(self.choices)
        if self.setting.endswith("_key"):
            return "KEY"
        return _METAVARS.get(self.setting)

    @property
    def declared(self) -> tuple[str, ...]:
        """As an option is declared."""
        if self.kind is bool:
            return (f"{self.names[0]}/--no-{self.names[0].removeprefix('--')}",)
        return self.names

    @property
    def help(self) -> str:
        """What it does, its default and its variable."""
        notes = ["repeatable"] if self.is_list else []
        notes += [f"default {self.default}"] if self.default else []
        notes.append(variable(self.setting))
        return f"{self.text.replace('`', chr(39))} [{'; '.join(notes)}]"


def variable(setting: str) -> str:
    """The environment's name for `setting`."""
    from edge_agent.settings import ENV_PREFIX

    return ENV_PREFIX + setting.upper()


@cache
def flags() -> Mapping[str, Flag]:
    """All of them, by setting."""
    from edge_agent.settings import EdgeSettings

    return {name: _flag(name, field) for name, field in EdgeSettings.model_fields.items()}


def _flag(setting: str, field: FieldInfo) -> Flag:
    from edge_agent.control import POLICY_NAMES
    from edge_agent.settings import flag_name

    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    is_list = get_origin(field.annotation) is tuple
    choices: tuple[str, ...] = ()
    if setting == "policy":
        choices = POLICY_NAMES
    elif all(isinstance(kind, str) for kind in kinds):  # of a Literal
        choices = tuple(kinds)
    elif hasattr(kinds[0], "__members__"):
        choices = tuple(str(member) for member in kinds[0])
    plain = kinds[0] in (bool, int, float, Path) and not is_list
    names = [_SHORT[setting]] if setting == "config_file" else [flag_name(setting)]
    names += [_SHORT[setting]] if setting in _SHORT and _SHORT[setting] not in names else []
    text = " ".join((field.description or "").split())
    default = field.default_factory is None and not field.is_required() and field.default not in (None, ())
    shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    kind = kinds[0] if plain else str
    return Flag(setting, tuple(names), kind, is_list, choices, text, shown if default else "")


def annotated(setting: str) -> Any:
    """The type of a command's parameter for `setting`, None unless it is given."""
    flag = flags()[setting]
    option = typer.Option(*flag.declared, help=flag.help, metavar=flag.metavar, show_default=False)
    kind: Any = list[str] if flag.is_list else flag.kind
    return Annotated[kind | None, option]


def with_settings(
    only: Collection[str] | None = None, without: Collection[str] = ()
) -> Callable[[], type[TyperCommand]]:
    """For `app.command(cls=with_settings(...)())`: a flag for each setting, or for `only` those.

    The command gets what was given from `given`.
    """

    def make() -> type[TyperCommand]:
        class SettingsCommand(TyperCommand):
            def get_params(self, ctx: Any) -> list[Any]:
                own = super().get_params(ctx)
                names = flags().keys() if only is None else only
                return [*own[:-1], *(_options()[name] for name in names if name not in without), own[-1]]

            def invoke(self, ctx: Any) -> Any:
                known = flags()
                found = {name: ctx.params.pop(name) for name in [*ctx.params] if name in known}
                ctx.meta[_META] = found
                return super().invoke(ctx)

        return SettingsCommand

    return make


@cache
def _options() -> Mapping[str, Any]:
    """The options as typer makes them of a command that has them all."""

    def all_of_them(**flags: Any) -> None: ...

    kinds = {name: annotated(name) for name in flags()}
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in kinds.items()
    ]
    all_of_them.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    all_of_them.__annotations__ = kinds
    app = typer.Typer(add_completion=False)
    app.command()(all_of_them)
    return {param.name or "": param for param in typer.main.get_command(app).params}


def given(ctx: typer.Context) -> dict[str, Any]:
    """The settings' flags of a command made `with_settings`, by setting; None or empty: not given."""
    found: dict[str, Any] = ctx.meta[_META]
    return found


def documentation() -> str:
    """The settings as a table in Markdown: docs/settings.md has it."""
    rows = ["| setting | flag | default | |", "|---|---|---|---|"]
    for flag in flags().values():
        values = f" One of {', '.join(f'`{choice}`' for choice in flag.choices)}." if flag.choices else ""
        default = f"`{flag.default}`" if flag.default else ""
        rows.append(f"| `{flag.setting}` | `{flag.names[0]}` | {default} | {flag.text}{values} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(documentation(), end="")
