"""Figures in Markdown: sentences of a template, tables between two marks. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Final

__all__ = ["Found", "find_sentence", "find_table", "table_text"]

_FIGURE: Final = r"-?\d+(?:\.\d+)?"


class Found(tuple[int, int]):
    """Where a text stands: its start and its end."""

    __slots__ = ()


def find_sentence(text: str, template: str) -> tuple[Found, str] | None:
    """The place of a sentence with any figures, lines broken anywhere; and the place's own text."""
    pattern = ""
    for literal, name, _, _ in Formatter().parse(template):
        pattern += r"\s+".join(re.escape(word) for word in re.split(r"\s+", literal))
        if name is not None:
            pattern += _FIGURE
    match = re.search(pattern, text)
    return match and (Found(match.span()), match.group())


def with_figures(found: str, template: str, figures: Mapping[str, str]) -> str:
    """`found`, a place of `find_sentence`, with other figures and its own line breaks."""
    parts = list(Formatter().parse(template))
    sentence = "".join(literal + (figures[name] if name is not None else "") for literal, name, _, _ in parts)
    words, gaps = re.split(r"\s+", sentence), re.findall(r"\s+", found)
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def find_table(text: str, name: str) -> Found | None:
    """What is between the marks of table `name`."""
    start, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
    begin = text.find(start)
    stop = text.find(end, begin)
    return None if begin < 0 or stop < 0 else Found((begin + len(start), stop))


def table_text(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table between blank lines, as `find_table` finds it."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
