"""Drafting for a target with a model of another vocabulary.

Tokens that are spelled alike are the same token under two ids: the draft's logits are laid out by the
target's ids before a token is picked, so that the target's noise, which goes by its ids, is drawn for the
right ones. A token of the target that the draft does not have is read by the draft as several that spell it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.drafting.drafter import Drafter, DraftModelInfo
from edge_agent.sampling import DraftToken, GreedyPicker, TokenPicker
from pipesd_vllm.wire import Fingerprint

__all__ = ["TranslatingDrafter", "VocabularyMap", "spellings"]

_MARKS: Final = "Ġ▁"
"""The space before a word: in byte-level vocabularies, and in those of SentencePiece."""


@cache
def _byte_of_character() -> Mapping[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {chr(byte) if byte in printable else chr(next(others)): byte for byte in range(256)}


def spellings(vocabulary: Sequence[str]) -> list[bytes]:
    """The bytes that each token of a vocabulary stands for, given as its strings are stored."""
    marks = Counter(token[0] for token in vocabulary if token and token[0] in _MARKS)
    is_byte_level = marks["Ġ"] >= marks["▁"]
    return [_byte_level(token) if is_byte_level else _sentence_piece(token) for token in vocabulary]


def _byte_level(token: str) -> bytes:
    alphabet = _byte_of_character()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:  # text that was added as a whole
        return token.encode("utf-8", "surrogateescape")


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            pass
    return token.replace("▁", " ").encode("utf-8", "surrogateescape")


class VocabularyMap:
    """From a target's token ids to a draft's, and from the draft's logits to the target's. For one thread."""

    def __init__(self, target: Sequence[str], draft: Sequence[str]) -> None:
        """Vocabularies in id order, as their files have them (seconds of work)."""
        self._target = spellings(target)
        self._draft_ids = _by_spelling(spellings(draft))
        self._longest = max(map(len, self._draft_ids), default=0)
        first: dict[bytes, int] = {}
        for token_id, spelling in enumerate(self._target):
            if spelling in self._draft_ids:
                first.setdefault(spelling, token_id)
        pairs = [(target_id, self._draft_ids[spelling]) for spelling, target_id in first.items()]
        self._of_target = np.array([each for each, _ in pairs], dtype=np.int64)
        self._of_draft = np.array([each for _, each in pairs], dtype=np.int64)
        self._logits = np.full(len(self._target), -np.inf, dtype=np.float32)
        self._spelled: dict[int, tuple[int, ...]] = {}

    @property
    def shared(self) -> float:
        """Share of the target's tokens that the draft has, too."""
        return len(self._of_target) / max(1, len(self._target))

    def logits(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The draft's logits `[num_draft]` by the target's ids; minus infinity for what the draft lacks.

        `[num_target]`, valid until the next call.
        """
        self._logits[self._of_target] = logits[self._of_draft]
        return self._logits

    def spelled(self, token_id: int) -> tuple[int, ...]:
        """The draft's tokens that spell a token of the target: its own, if it has it. Never empty."""
        found = self._spelled.get(token_id)
        if found is None:
            spelling = self._target[token_id] if token_id < len(self._target) else b""
            found = self._spelled[token_id] = self._cut(spelling) or (0,)
        return found

    def _cut(self, spelling: bytes) -> tuple[int, ...]:
        """The longest tokens of the draft, from left to right; bytes without a token are left out."""
        found, start = [], 0
        while start < len(spelling):
            for end in range(min(len(spelling), start + self._longest), start, -1):
                if (token_id := self._draft_ids.get(spelling[start:end])) is not None:
                    found.append(token_id)
                    start = end
                    break
            else:
                start += 1
        return tuple(found)


def _by_spelling(spelled: Sequence[bytes]) -> dict[bytes, int]:
    """Ids by spelling; of several tokens that are spelled alike the first."""
    found: dict[bytes, int] = {}
    for token_id, spelling in enumerate(spelled):
        found.setdefault(spelling, token_id)
    return found


class _Translated:
    """One sequence in the target's ids, and how many tokens the draft reads for it: a `TokenPicker`, too."""

    def __init__(self, vocabulary: VocabularyMap, tokens: Sequence[int], picker: TokenPicker) -> None:
        self._vocabulary = vocabulary
        self._picker = picker
        self._picked = DraftToken(0, 1.0)
        self.tokens = list(tokens)
        self.ends = list(accumulate(len(vocabulary.spelled(token)) for token in tokens))
        """By token: how many of the draft's have been read after it."""

    def spelled(self, tokens: Sequence[int]) -> list[int]:
        return [draft_id for token in tokens for draft_id in self._vocabulary.spelled(token)]

    def length(self, num_tokens: int) -> int:
        """How many of the draft's tokens the first `num_tokens` are."""
        return self.ends[num_tokens - 1] if num_tokens else 0

    def rewrite(self, num_kept: int, tokens: Sequence[int]) -> None:
        del self.tokens[num_kept:], self.ends[num_kept:]
        for token in tokens:
            self.ends.append(self.length(len(self.ends)) + len(self._vocabulary.spelled(token)))
            self.tokens.append(token)

    def take(self, drafted: DraftToken) -> DraftToken:
        """What was drafted, in the target's ids; it has joined the sequence."""
        self.rewrite(len(self.tokens), [self._picked.token_id])
        return DraftToken(self._picked.token_id, drafted.probability, drafted.source)

    def pick(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> DraftToken:
        self._picked = self._picker.pick(self._vocabulary.logits(logits), self.tokens)
        return DraftToken(
            self._vocabulary.spelled(self._picked.token_id)[0], self._picked.probability, self._picked.source
        )

    def rewind(self, length: int) -> None:
        self._picker.rewind(bisect_right(self.ends, length))


class TranslatingDrafter:
    """A `Drafter` over `drafter`, whose sequences are in the ids of `vocabulary` if there is one."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._greedy = GreedyPicker()
        self._translated: dict[int, _Translated] = {}
        self.vocabulary_map: VocabularyMap | None = None
        """For sequences that are opened from now on; None: those of the draft model."""

    @property
    def info(self) -> DraftModelInfo:
        return self._drafter.info

    def vocabulary(self) -> Sequence[str]:
        return self._drafter.vocabulary()

    def fingerprint(self, num_tokens: int) -> Fingerprint:
        return self._drafter.fingerprint(num_tokens)

    def open(self, tokens: Sequence[int], picker: TokenPicker | None = None) -> int:
        if self.vocabulary_map is None:
            return self._drafter.open(tokens, picker)
        translated = _Translated(self.vocabulary_map, tokens, picker or self._greedy)
        sequence = self._drafter.open(translated.spelled(tokens), translated)
        self._translated[sequence] = translated
        return sequence

    def rewrite(self, sequence: int, length: int, tokens: Sequence[int]) -> None:
        translated = self._translated.get(sequence)
        if translated is None:
            self._drafter.rewrite(sequence, length, tokens)
            return
        self._drafter.rewrite(sequence, translated.length(length), translated.spelled(tokens))
        translated.rewrite(length, tokens)

    def draft(self, sequences: Sequence[int]) -> Mapping[int, DraftToken]:
        drafted = self._drafter.draft(sequences)
        if not self._translated:
            return drafted
        return {
            sequence: self._translated[sequence].take(token) if sequence in self._translated else token
            for sequence, token in drafted.items()
        }

    def room(self, sequence: int) -> int:
        return self._drafter.room(sequence)

    def close_sequence(self, sequence: int) -> None:
        self._translated.pop(sequence, None)
        self._drafter.close_sequence(sequence)

    def request_abort(self) -> None:
        self._drafter.request_abort()

    def close(self) -> None:
        self._drafter.close()
