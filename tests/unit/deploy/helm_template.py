"""Renders the part of Helm's templates that this repository's chart uses, where Helm itself is not at hand.

Actions `if`, `else`, `with`, `range`, `end` with trim markers; fields, literals, parentheses, pipes and the
functions of `FUNCTIONS`. Anything else is an error. `test_deploy.py` compares it with Helm where Helm is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["Refused", "render"]


class Refused(Exception):
    """The chart says with `fail` or `required` what is missing."""


def _refuse(message: str) -> str:
    raise Refused(message)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "concat": lambda *lists: [item for items in lists for item in items],
    "default": lambda fallback, value: value or fallback,
    "div": lambda a, b: int(a) // int(b),
    "fail": _refuse,
    "list": lambda *items: list(items),
    "not": lambda value: not value,
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "required": lambda message, value: value or _refuse(message),
    "toJson": lambda value: json.dumps(value, separators=(",", ":")),
}
_LEFT: Final = re.compile(r"\s*\{\{-\s")
_RIGHT: Final = re.compile(r"\s-\}\}\s*")
_ACTION: Final = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_WORD: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()|]|[\w.]+)')


def render(chart: Path, values: Mapping[str, Any], release: str = "release") -> list[dict[str, Any]]:
    """All documents of `chart` with `values` over its defaults, in the order of the templates' names.

    Raises `Refused`, `ValueError` for a template that uses more than is understood here.
    """
    described = yaml.safe_load((chart / "Chart.yaml").read_text())
    root = {
        "Values": _merged(yaml.safe_load((chart / "values.yaml").read_text()), values),
        "Release": {"Name": release},
        "Chart": {name[:1].upper() + name[1:]: value for name, value in described.items()},
    }
    texts = [_text(path.read_text(), root) for path in sorted((chart / "templates").glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}
    return above


def _text(template: str, root: Mapping[str, Any]) -> str:
    parts = _ACTION.split(_RIGHT.sub("}}", _LEFT.sub("{{ ", template)))  # texts and actions, in turn
    out, end = _block(parts, 0, root, root, shown=True)
    if end < len(parts):
        raise ValueError(f"{parts[end]!r} ends nothing")
    return out


def _block(
    parts: list[str], start: int, root: Mapping[str, Any], dot: Any, *, shown: bool
) -> tuple[str, int]:
    """What the parts from the text `start` on give, and where the `else` or `end` stands that ends them."""
    out, index = parts[start], start + 1
    while index < len(parts):
        word = parts[index].partition(" ")[0]
        if word in ("else", "end"):
            break
        if word in ("if", "with", "range"):
            more, index = _control(parts, index, root, dot, shown=shown)
        else:
            more = str(evaluate(parts[index], root, dot)) if shown else ""
        out += more + parts[index + 1]
        index += 2
    return out, index


def _control(
    parts: list[str], start: int, root: Mapping[str, Any], dot: Any, *, shown: bool
) -> tuple[str, int]:
    """What the `if`, `with` or `range` at `start` gives, and where its `end` stands."""
    word, _, condition = parts[start].partition(" ")
    value = evaluate(condition, root, dot) if shown else None
    dots = list(value or ()) if word == "range" else [value if word == "with" else dot] if value else []
    _, index = _block(parts, start + 1, root, dot, shown=False)
    out = "".join(_block(parts, start + 1, root, item, shown=shown)[0] for item in dots)
    if parts[index] == "else":
        other, index = _block(parts, index + 1, root, dot, shown=shown and not dots)
        out += "" if dots else other
    if parts[index : index + 1] != ["end"]:
        raise ValueError(f"{parts[start]!r} has no end")
    return out, index


def evaluate(expression: str, root: Mapping[str, Any], dot: Any) -> Any:
    """A pipeline's value. Raises `ValueError` for what is not understood."""
    words = _WORD.findall(expression)
    if "".join(words) != re.sub(r'("[^"]*")|\s+', r"\1", expression):
        raise ValueError(f"not understood: {expression}")
    value = _pipeline(words, root, dot)
    if words:
        raise ValueError(f"not understood: {expression}")
    return value


def _pipeline(words: list[str], root: Mapping[str, Any], dot: Any) -> Any:
    """Takes the words off that it uses."""
    value = _command(words, root, dot)
    while words[:1] == ["|"]:
        words.pop(0)
        value = _command(words, root, dot, value)
    return value


def _command(words: list[str], root: Mapping[str, Any], dot: Any, *piped: Any) -> Any:
    function = FUNCTIONS[words.pop(0)] if words and words[0] in FUNCTIONS else None
    operands = []
    while words and words[0] not in ("|", ")"):
        word = words.pop(0)
        if word != "(":
            operands.append(_operand(word, root, dot))
            continue
        operands.append(_pipeline(words, root, dot))
        words.pop(0)
    if function:
        return function(*operands, *piped)
    (value,) = operands
    return value


def _operand(word: str, root: Mapping[str, Any], dot: Any) -> Any:
    if word.startswith('"') or word.isdigit():
        return json.loads(word)
    if not word.startswith("."):
        raise ValueError(f"no such function: {word}")
    value = root if word.startswith(tuple(f".{name}." for name in root)) else dot
    for name in filter(None, word.split(".")):
        value = value[name]  # a value without a default is an error: Helm would leave it empty
    return value
