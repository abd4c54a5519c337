"""Drafts by lookup: what followed the text's last tokens where they stood before. Pure.

Prompt lookup (Saxena 2023) on hash chains over three tokens, as in LZ77: the places that match the text's end
are kept from token to token, at most `MAX_PLACES` of them, so that a token costs the same however long the
text is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.api import Source
from edge_agent.sampling import DraftToken

__all__ = [
    "BETWEEN_TEXTS",
    "MAX_RUN",
    "MAX_TOKEN_ID",
    "MIN_MATCH",
    "GrowingIndex",
    "Library",
    "LookupRates",
    "LookupSource",
    "SortedIndex",
    "TokenIndex",
]

MIN_MATCH: Final = 3
"""Tokens that must match before anything is proposed."""
MAX_MATCH: Final = 32
"""Longer matches count as this."""
MAX_RUN: Final = 48
"""Most tokens of one proposal."""
MAX_PLACES: Final = 8
"""Places followed at once: the longest matches, then the newest."""
MIN_SURVIVAL: Final = 0.2
"""A run ends before the token that all of it is less likely than this to reach, unless told another."""
BETWEEN_TEXTS: Final = -1
"""Stands between two texts of an index: nothing matches it."""
_MIN_COPIED: Final = 6
"""Tokens that must have matched for a break to be taken for an edit."""
_MAX_EDIT: Final = 16
"""Tokens after which an edited copy must have come back to its original."""
_ID_BITS: Final = 21
MAX_TOKEN_ID: Final = (1 << _ID_BITS) - 1
"""Largest of a `SortedIndex`."""


class TokenIndex(Protocol):
    """Texts in which the last tokens of another, or of its own, are looked up."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> int: ...

    def after(self, trigram: tuple[int, int, int], most: int) -> Iterable[int]:
        """The places right after `trigram`, newest first, at most `most`; the end may be one."""
        ...


class GrowingIndex:
    """A text that tokens are added to. About 150 bytes a token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._newest: dict[tuple[int, int, int], int] = {}
        self._older: list[int] = []
        """For each place the one before it that comes after the same trigram; -1: none."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int, /) -> int:
        return self.tokens[place]

    def append(self, token: int) -> None:
        """Add a token to the text's end."""
        tokens = self.tokens
        tokens.append(token)
        if len(tokens) < MIN_MATCH:
            self._older.append(-1)
            return
        trigram = (tokens[-3], tokens[-2], token)
        self._older.append(self._newest.get(trigram, -1))
        self._newest[trigram] = len(tokens)

    def after(self, trigram: tuple[int, int, int], most: int) -> Iterable[int]:
        place = self._newest.get(trigram, -1)
        while place >= 0 and most > 0:
            yield place
            place = self._older[place - 1]
            most -= 1


class SortedIndex:
    """Texts that do not change, oldest first. 16 bytes a token."""

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        """`tokens` `[num_tokens]`: up to `MAX_TOKEN_ID`, and `BETWEEN_TEXTS` after each text."""
        ended = np.append(tokens, np.int32(BETWEEN_TEXTS))
        wide = ended.astype(np.int64)
        keys = wide[:-2] << 2 * _ID_BITS | wide[1:-1] << _ID_BITS | wide[2:]
        order = np.argsort(keys, kind="stable").astype(np.int32)
        # Single elements of a memoryview are had three times as fast as those of an array.
        self._tokens, self._keys, self._order = ended.data, keys[order].data, order.data

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, place: int, /) -> int:
        return self._tokens[place]

    def after(self, trigram: tuple[int, int, int], most: int) -> Iterable[int]:
        a, b, c = trigram
        key = a << 2 * _ID_BITS | b << _ID_BITS | c
        start = bisect_left(self._keys, key)
        end = bisect_right(self._keys, key, start, min(len(self._keys), start + most))
        if end == start + most:
            end = bisect_right(self._keys, key, end)
        return (self._order[i] + MIN_MATCH for i in range(end - 1, max(start, end - most) - 1, -1))


class LookupRates:
    """How often the token after a match is right, by the match's length, in tokens; learnt as texts grow.

    Begins as if `PRIOR_COUNT` tokens of each length had been right as often as was measured on copying and
    other texts; counts are halved at `MAX_COUNT`.
    """

    PRIOR_COUNT: Final = 20.0
    MAX_COUNT: Final = 400.0
    _START: Final = ((1, 0.55), (2, 0.72), (3, 0.71), (5, 0.80), (8, 0.85), (15, 0.92), (MAX_MATCH, 0.97))
    """(longest match of the class, rate)"""

    def __init__(self) -> None:
        self._class_of = [
            next(i for i, (longest, _) in enumerate(self._START) if length <= longest)
            for length in range(MAX_MATCH + 1)
        ]
        self._counts = [self.PRIOR_COUNT for _ in self._START]
        self._right = [self.PRIOR_COUNT * rate for _, rate in self._START]

    def rate(self, length: int) -> float:
        """In (0, 1), for a match of `length` tokens."""
        i = self._class_of[min(length, MAX_MATCH)]
        return self._right[i] / self._counts[i]

    def observe(self, length: int, *, right: bool) -> None:
        """The token after a match of `length` tokens was proposed, `right` or not."""
        i = self._class_of[min(length, MAX_MATCH)]
        self._counts[i] += 1.0
        self._right[i] += right
        if self._counts[i] > self.MAX_COUNT:
            self._counts[i] /= 2
            self._right[i] /= 2


class Library(NamedTuple):
    """Texts that do not change, and how often they were right."""

    texts: TokenIndex
    rates: LookupRates


class _Places:
    """The places of `index` right after what the text ends with.

    Where the text parts from a long match, as an edited copy does from its original, it is expected to come
    back within a few tokens: the place is sought near the break before `MIN_MATCH` tokens agree again.
    """

    def __init__(self, index: TokenIndex, rates: LookupRates) -> None:
        self.index = index
        self.rates = rates
        self._found: dict[int, int] = {}
        """Place -> tokens that match before it, up to `MAX_MATCH`."""
        self._broken_at = -1
        """The place whose token the text does not have; -1: there is none, or it was long ago."""
        self._since_break = 0
        """Tokens of the text from there on."""

    def copy(self) -> _Places:
        copied = _Places(self.index, self.rates)
        copied._found = self._found
        copied._broken_at, copied._since_break = self._broken_at, self._since_break
        return copied

    def advance(self, recent: Sequence[int], beyond: Sequence[int] = ()) -> None:
        """The text, whose last tokens are `recent`, has grown by its last token.

        `beyond`: what continues the index, if it is the text's own and lags behind; ends with that token.
        """
        index, token, size = self.index, recent[-1], len(self.index)
        found = {}
        for place, length in self._found.items():
            if (index[place] if place < size else beyond[place - size]) == token:
                found[place + 1] = length + 1 if length < MAX_MATCH else MAX_MATCH
        self._note_break(goes_on=bool(found))
        if len(recent) >= MIN_MATCH and len(found) < MAX_PLACES:
            end = size + len(beyond)
            for place in index.after((recent[-3], recent[-2], token), MAX_PLACES):
                if place < end and place not in found:
                    found[place] = _matched(index, place, recent)
                    if len(found) == MAX_PLACES:
                        break
        if not beyond:
            found = {place: length for place, length in found.items() if index[place] != BETWEEN_TEXTS}
        self._found = found

    def _note_break(self, *, goes_on: bool) -> None:
        if not goes_on and self._found and max(self._found.values()) >= _MIN_COPIED:
            self._broken_at = max(self._found, key=lambda place: (self._found[place], place))
            self._since_break = 1
        elif self._broken_at >= 0:
            self._since_break += 1
            if self._since_break > _MAX_EDIT:
                self._broken_at = -1

    def best(self, recent: Sequence[int], beyond: Sequence[int] = ()) -> tuple[float, int, int] | None:
        """(rate, length, place) of the longest match; of several the one whose next token is the most
        frequent there, then the newest. `recent` and `beyond` as for `advance`."""
        resumed = self._resumed(recent, beyond) if self._broken_at >= 0 else None
        if not self._found:
            return resumed
        longest = max(self._found.values())
        places = [place for place, length in self._found.items() if length == longest]
        if len(places) > 1:
            size = len(self.index)
            next_of = {p: self.index[p] if p < size else beyond[p - size] for p in places}
            counts = Counter(next_of.values())
            places = [max(places, key=lambda place: (counts[next_of[place]], place))]
        found = self.rates.rate(longest), longest, places[0]
        return found if resumed is None or found[0] >= resumed[0] else resumed

    def _resumed(self, recent: Sequence[int], beyond: Sequence[int]) -> tuple[float, int, int] | None:
        """Where the text takes up what it parted from: after its last two tokens, or one, near the break."""
        start, expected = self._broken_at, self._broken_at + self._since_break
        end = min(expected + _MAX_EDIT, len(self.index) + len(beyond) - 1)
        near = [
            self.index[place] if place < len(self.index) else beyond[place - len(self.index)]
            for place in range(start, end + 1)
        ]
        if BETWEEN_TEXTS in near:
            del near[near.index(BETWEEN_TEXTS) :]
        best: tuple[int, int, int] | None = None
        for offset in range(1, len(near)):
            if near[offset - 1] == recent[-1]:
                is_second = offset > 1 and self._since_break > 1 and near[offset - 2] == recent[-2]
                length = 2 if is_second else 1
                candidate = length, -abs(start + offset - expected), start + offset
                best = candidate if best is None else max(best, candidate)
        return None if best is None else (self.rates.rate(best[0]), best[0], best[2])

    def learn(self, recent: Sequence[int], token: int) -> None:
        """`token` comes next, after `recent`: it was the best match's or not."""
        if (best := self.best(recent)) is not None:
            _, length, place = best
            self.rates.observe(length, right=self.index[place] == token)


def _matched(index: TokenIndex, place: int, recent: Sequence[int]) -> int:
    """How many tokens before `place` are the last of `recent`; at least `MIN_MATCH` are known to be."""
    most = min(place, len(recent), MAX_MATCH)
    length = MIN_MATCH
    while length < most and index[place - length - 1] == recent[-length - 1]:
        length += 1
    return length


class LookupSource:
    """Proposes the continuation of one text from the text itself, or from libraries where that is likelier.

    The text is what was committed and, after it, drafts of any source (`extend`) until they are committed or
    void.
    """

    def __init__(self, prompt: Sequence[int], rates: LookupRates, libraries: Iterable[Library] = ()) -> None:
        """`rates` may be shared by sources of one thread."""
        self._text = GrowingIndex()
        self._drafted: list[int] = []
        self._committed = [_Places(self._text, rates), *(_Places(*library) for library in libraries)]
        for token in prompt:
            self._text.append(token)
        recent = self._text.tokens[-MAX_MATCH:]
        if recent:
            for places in self._committed:
                places.advance(recent)
        self.void()

    def follow(self, tokens: Sequence[int]) -> None:
        """`tokens` were committed; the drafts that they contradict are void, and those after them."""
        for token in tokens:
            self._commit(token)
            agreed = bool(self._drafted) and self._drafted[0] == token
            if agreed and len(self._drafted) > 1:
                del self._drafted[0]
            else:
                self.void()

    def extend(self, tokens: Sequence[int]) -> None:
        """`tokens` were drafted after the text."""
        for token in tokens:
            self._drafted.append(token)
            recent = self._recent(self._drafted)
            for places in self._ahead:
                places.advance(recent, self._drafted if places.index is self._text else ())

    def void(self) -> None:
        """The drafts after what is committed do not hold."""
        self._drafted = []
        self._ahead = [places.copy() for places in self._committed]

    def propose(
        self, most: int = MAX_RUN, survival: float = 1.0, least: float = MIN_SURVIVAL
    ) -> list[DraftToken]:
        """As `DraftSource.propose`. Empty if the last `MIN_MATCH` tokens stood nowhere before."""
        chosen, best, recent = None, None, self._recent(self._drafted)
        for places in self._ahead:
            found = places.best(recent, self._drafted if places.index is self._text else ())
            if found is not None and (best is None or found[0] > best[0]):
                chosen, best = places, found
        if chosen is None or best is None:
            return []
        _, length, place = best
        source = self._copied_from(place) if chosen.index is self._text else _rest_of(chosen.index, place)
        run: list[DraftToken] = []
        for token in islice(source, min(most, MAX_RUN)):
            rate = chosen.rates.rate(length + len(run))
            survival *= rate
            if survival < least:
                break
            run.append(DraftToken(token, rate, Source.LOOKED_UP))
        return run

    def _copied_from(self, place: int) -> Iterator[int]:
        """The text from `place`, without end: after its end comes what was copied."""
        beyond = self._drafted[max(0, place - len(self._text)) :]
        return cycle([*self._text.tokens[place : place + MAX_RUN], *beyond])

    def _commit(self, token: int) -> None:
        before, recent = self._text.tokens[-MAX_MATCH:], self._recent((token,))
        for places in self._committed:
            places.learn(before, token)
        for places in self._committed:
            places.advance(recent, (token,) if places.index is self._text else ())
        self._text.append(token)

    def _recent(self, newest: Sequence[int]) -> list[int]:
        """The last `MAX_MATCH` tokens of the text and, after it, `newest`."""
        newest = newest[-MAX_MATCH:]
        missing = MAX_MATCH - len(newest)
        return [*(self._text.tokens[-missing:] if missing else ()), *newest]


def _rest_of(index: TokenIndex, place: int) -> Iterator[int]:
    """From `place` to the end of its text."""
    while (token := index[place]) != BETWEEN_TEXTS:
        yield token
        place += 1
