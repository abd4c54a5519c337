"""Finding stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopScanner"]


class _Pattern:
    """One stop string and how much of it the text read so far ends with.

    Knuth, Morris and Pratt (1977): amortised constant work a character, whatever the string.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallback = _fallbacks(text)

    @property
    def num_begun(self) -> int:
        """How much of a hit still to come the text read so far ends with."""
        is_whole = self.num_matched == len(self.text)
        return self._fallback[-1] if is_whole else self.num_matched

    def feed(self, character: str) -> bool:
        """Read one character; true when the text now ends with the whole string."""
        matched = self.num_begun
        while matched and self.text[matched] != character:
            matched = self._fallback[matched - 1]
        if self.text[matched] == character:
            matched += 1
        self.num_matched = matched
        return matched == len(self.text)


def _fallbacks(text: str) -> list[int]:
    """For each prefix, the length of its longest proper suffix that is also a prefix of `text`."""
    table = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = table[length - 1]
        if text[index] == text[length]:
            length += 1
        table[index] = length
    return table


class StopScanner:
    """Passes text through until the first stop string is complete.

    Holds back only the end of the text that could still become a stop string. "First" is the
    stop string that ends first (the longest of those that end together), so the result does
    not depend on how the text is cut into pieces. Stop strings must not be empty. `found` is that string,
    once it is complete.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._patterns = [_Pattern(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """Read `text`; returns what may be shown and whether a stop string was found.

        The stop string and what follows it are not shown. Must not be called after a hit. Without
        `may_stop` a stop string that ends in `text` is no hit.
        """
        held = self._held + text
        for index, character in enumerate(text, len(self._held)):
            hits = [pattern.text for pattern in self._patterns if pattern.feed(character)]
            if hits and may_stop:
                self._held = ""
                self.found = max(hits, key=len)
                return held[: index + 1 - len(self.found)], True
        num_held = max((pattern.num_begun for pattern in self._patterns), default=0)
        shown = len(held) - num_held
        self._held = held[shown:]
        return held[:shown], False

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held
