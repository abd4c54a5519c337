"""The claims file: what the documents say, and the raw data it is recomputed from."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.claims.documents import find_sentence, find_table, table_text, with_figures
from benchmarks.claims.values import ClaimError, Record, Value, matching, merged

__all__ = [
    "DATA",
    "FILE",
    "ROOT",
    "Claims",
    "Data",
    "Report",
    "SimulatedRun",
    "check",
    "covered",
    "read_claims",
    "read_records",
]

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = Path(__file__).with_name("claims.toml")
DATA: Final = Path(__file__).with_name("data")


class SimulatedRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of simulated data: every combination is run. Its records have `set` = the run's."""

    set: str
    pair: str
    scenarios: list[str]
    costs: list[str]
    policies: list[str]
    categories: list[str] = []
    """Of the record's prompts; none: all."""
    edges: tuple[int, ...] = (1,)
    prompts: int
    temperature: float = 0.0
    sources: list[str] = []
    """Of our default, besides both."""
    grid: bool = False
    """Policies of the literature also with other thresholds."""
    seed: int = 0


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of raw data, one record a line, gzipped if its name says so."""

    file: str
    command: str
    """What made it."""
    key: list[str] = []
    """Fields that name a case which several contestants share."""
    run: list[SimulatedRun] = []
    """On virtual time, which `pipesd bench claims --renew` runs again."""


class _Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sentence of a document; `values` by the names that stand in it."""

    file: str
    sentence: str
    data: str
    where: dict[str, Any] = {}
    values: dict[str, Value]


class _Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cell` is a template; a cell without records is a dash."""

    head: str
    cell: str = "{value}"
    where: dict[str, Any] = {}
    values: dict[str, Value] = {}
    """Besides those of the table."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A generated table: a line for each combination of `rows`, in the order given or of the data."""

    file: str
    data: str
    where: dict[str, Any] = {}
    rows: list[str]
    """Fields."""
    heads: list[str]
    order: dict[str, list[Any]] = {}
    values: dict[str, Value] = {}
    columns: list[_Column]


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. `labels`: how a field's value is written in tables."""

    labels: dict[str, dict[str, str]] = {}
    data: dict[str, Data]
    claim: dict[str, _Claim] = {}
    table: dict[str, _Table] = {}

    def files(self) -> list[str]:
        """The documents, in order."""
        names = [claim.file for claim in self.claim.values()]
        return list(dict.fromkeys(names + [table.file for table in self.table.values()]))


@dataclass(slots=True)
class Report:
    """What differs, in words; the documents as they should be."""

    num_sentences: int
    num_tables: int
    differing: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def read_claims(file: Path = FILE) -> Claims:
    """Raises `msgspec.ValidationError`."""
    return msgspec.toml.decode(file.read_bytes(), type=Claims)


@cache
def read_records(file: Path) -> Sequence[Record]:
    """Raises `ClaimError`."""
    try:
        raw = file.read_bytes()
        text = gzip.decompress(raw) if file.suffix == ".gz" else raw
        return [msgspec.json.decode(line) for line in text.splitlines()]
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise ClaimError(f"cannot read {file.name}: {error}") from error


def check(claims: Claims, root: Path = ROOT, folder: Path = DATA) -> Report:
    """Compares the documents below `root` with the data in `folder`. Raises `ClaimError`."""
    report = Report(len(claims.claim), len(claims.table))
    report.texts = {file: (root / file).read_text(encoding="utf-8") for file in claims.files()}
    for name, claim in claims.claim.items():
        data = claims.data[claim.data]
        records = read_records(folder / data.file)
        figures = _figures(name, claim.values, claim.where, records, data.key)
        text = report.texts[claim.file]
        found = find_sentence(text, claim.sentence)
        if found is None:
            report.differing.append(f"{name}: {claim.file} has no such sentence: {claim.sentence}")
            continue
        (start, end), now = found
        true = with_figures(now, claim.sentence, figures)
        if true != now:
            report.differing.append(f"{name}: {claim.file} says {_line(now)!r}, the data {_line(true)!r}")
            report.texts[claim.file] = text[:start] + true + text[end:]
    for name, table in claims.table.items():
        data = claims.data[table.data]
        true = _rendered(name, table, read_records(folder / data.file), data.key, claims.labels)
        text = report.texts[table.file]
        place = find_table(text, name)
        if place is None:
            report.differing.append(f"{name}: {table.file} has no place for this table")
        elif (now := text[place[0] : place[1]]) != true:
            report.differing.append(f"{name}: {table.file}: {_first_difference(now, true)}")
            report.texts[table.file] = text[: place[0]] + true + text[place[1] :]
    return report


def covered(claims: Claims, file: str, text: str) -> list[tuple[int, int]]:
    """The spans of `text`, the document `file`, that claims speak of."""
    spans = [find_sentence(text, claim.sentence) for claim in claims.claim.values() if claim.file == file]
    places = [find_table(text, name) for name, table in claims.table.items() if table.file == file]
    return [(found[0][0], found[0][1]) for found in spans if found] + [
        (place[0], place[1]) for place in places if place
    ]


def _figures(
    name: str,
    values: Mapping[str, Value],
    where: Mapping[str, Any],
    records: Sequence[Record],
    key: Sequence[str],
) -> dict[str, str]:
    try:
        return {each: merged(value, where).computed(records, key) for each, value in values.items()}
    except ClaimError as error:
        raise ClaimError(f"{name}: {error}") from None


def _rendered(
    name: str,
    table: _Table,
    records: Sequence[Record],
    key: Sequence[str],
    labels: Mapping[str, Mapping[str, str]],
) -> str:
    try:
        chosen = matching(records, table.where)
    except ClaimError as error:
        raise ClaimError(f"{name}: {error}") from None
    orders = [table.order.get(each) or list(dict.fromkeys(r[each] for r in chosen)) for each in table.rows]
    there = {tuple(record[each] for each in table.rows) for record in chosen}
    by_case: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        by_case.setdefault(tuple(record.get(each) for each in table.rows), []).append(record)
    lines = []
    for case in product(*orders):
        if case not in there:
            continue
        own = dict(zip(table.rows, case, strict=True))
        line = [labels.get(each, {}).get(str(value), str(value)) for each, value in own.items()]
        for column in table.columns:
            where = {**table.where, **own, **column.where}
            if not matching(by_case[case], where):
                line.append("-")
                continue
            figures = _figures(name, {**table.values, **column.values}, where, by_case[case], key)
            line.append(column.cell.format(**figures))
        lines.append(line)
    return table_text([*table.heads, *(column.head for column in table.columns)], lines)


def _first_difference(now: str, true: str) -> str:
    pairs: Iterable[tuple[str, str]] = zip(now.splitlines(), true.splitlines(), strict=False)
    for old, new in pairs:
        if old != new:
            return f"has {old!r}, the data {new!r}"
    return f"has {len(now.splitlines())} lines, the data make {len(true.splitlines())}"


def _line(text: str) -> str:
    return " ".join(text.split())
