"""A figure, and how it is taken from raw data: which records, what of them, how many make one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from benchmarks.reports.intervals import paired_interval

__all__ = ["ClaimError", "Record", "Value", "Where", "matching", "merged"]

Record = Mapping[str, Any]
"""A line of raw data; fields are texts, numbers, booleans or None."""
Where = Mapping[str, Any]
"""Field to the value it must have, or to a list of allowed ones. An allowed None is written "none"."""


_TAKE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = MappingProxyType(
    {"sum": sum, "min": min, "max": max, "mean": fmean, "median": median}
)


class ClaimError(Exception):
    """A claim that cannot be computed: no such record, field or way to take it."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure.

    The records are parted into groups by the fields `by`. A group's number is its sum of `of`, divided by its
    sum of `per` where that is given. With `against`, `of` is summed over the records that differ in those
    fields instead and are of the same cases (`key` of the data). `take` makes one figure of all groups;
    without `by`, all records are one group for "only", "low" and "high" and each is its own for the others.
    """

    where: dict[str, Any] = {}
    of: str = ""
    per: str = ""
    against: dict[str, Any] = {}
    by: list[str] = []
    above: float | None = None
    """Only groups whose number is above it."""
    below: float | None = None
    take: Literal["only", "count", "sum", "min", "max", "mean", "median", "low", "high"] = "only"
    """"low" and "high": the ends of the 95 % interval of "only" (bootstrap over the records, paired)."""
    scale: float = 1.0
    format: str = ".2f"

    def computed(self, records: Sequence[Record], key: Sequence[str] = ()) -> str:
        """The figure as documents write it. Raises `ClaimError`."""
        chosen = matching(records, self.where)
        if not chosen:
            raise ClaimError(f"no record is where {self.where}")
        if self.take == "count" and not self.of:
            parts = {tuple(record[name] for name in self.by) for record in chosen} if self.by else chosen
            return format(len(parts) * self.scale, self.format)
        pairs = self._pairs(records, chosen, key)
        if self.take in ("low", "high"):
            over, under = zip(*pairs, strict=True)
            number = paired_interval(over, under)[self.take == "high"]
        else:
            number = self._taken(self._numbers(chosen, pairs))
        return format(number * self.scale, self.format)

    def _pairs(
        self, records: Sequence[Record], chosen: Sequence[Record], key: Sequence[str]
    ) -> list[tuple[float, float]]:
        """What is divided by what, by record of `chosen`."""
        other: Mapping[tuple[Any, ...], Record] = {}
        if self.against:
            where = {**self.where, **self.against}
            other = {_case(record, key): record for record in matching(records, where)}
        try:
            over = [(other[_case(record, key)] if self.against else record)[self.of] for record in chosen]
            under = [record[self.per] if self.per else 1.0 for record in chosen]
        except KeyError as error:
            raise ClaimError(f"no {error} where {self.where}") from None
        return list(zip(map(float, over), map(float, under), strict=True))

    def _numbers(self, chosen: Sequence[Record], pairs: Sequence[tuple[float, float]]) -> list[float]:
        """By group, those outside of the bounds left out."""
        groups: dict[object, list[tuple[float, float]]] = {}
        for number, (record, pair) in enumerate(zip(chosen, pairs, strict=True)):
            name: object = tuple(record[field] for field in self.by)
            if not self.by:
                name = 0 if self.take == "only" else number
            groups.setdefault(name, []).append(pair)
        numbers = [
            sum(over for over, _ in group) / (sum(under for _, under in group) if self.per else 1.0)
            for group in groups.values()
        ]
        return [
            number
            for number in numbers
            if (self.above is None or number > self.above) and (self.below is None or number < self.below)
        ]

    def _taken(self, numbers: Sequence[float]) -> float:
        if self.take == "count":
            return len(numbers)
        if not numbers or (self.take == "only" and len(numbers) > 1):
            raise ClaimError(f"{len(numbers)} figures where {self.where}: take which?")
        return float(_TAKE.get(self.take, fmean)(numbers))


def matching(records: Sequence[Record], where: Where) -> list[Record]:
    """Those that `where` allows. Raises `ClaimError` for a field that no record has."""
    for name in where:
        if not any(name in record for record in records):
            raise ClaimError(f"no record has a field {name!r}")
    allowed = {
        name: [None if each == "none" else each for each in (value if isinstance(value, list) else [value])]
        for name, value in where.items()
    }
    return [
        record for record in records if all(record.get(name) in values for name, values in allowed.items())
    ]


def merged(value: Value, where: Where) -> Value:
    """`value` of those records only; what it says itself about a field stands."""
    return msgspec.structs.replace(value, where={**where, **value.where})


def _case(record: Record, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record[name] for name in key)
