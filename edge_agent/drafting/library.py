"""What drafts are looked up in: the text itself, chosen files, this person's earlier answers, and quotations.

Files and answers only if asked for (`draft_from`). Nothing of them leaves the machine but as draft tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from edge_agent.api import TokenizerBundle
from edge_agent.drafting.lookup import (
    BETWEEN_TEXTS,
    MAX_TOKEN_ID,
    Library,
    LookupRates,
    LookupSource,
    SortedIndex,
)
from edge_agent.drafting.quoting import Quotes, takes_tools
from edge_agent.drafting.texts import Tokens, encoder, joined
from edge_agent.errors import ConfigError
from edge_agent.files import replace_file

__all__ = [
    "HISTORY",
    "MAX_HISTORY_TOKENS",
    "MAX_TEXT_BYTES",
    "DraftLibrary",
    "RequestSources",
    "readable_texts",
]

HISTORY: Final = "history"
"""The setting that keeps earlier answers; a folder of that name is given as `./history`."""
MAX_TEXT_BYTES: Final = 4 << 20
"""Of all files together: about a million tokens. The newest files come first."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_HISTORY_TOKENS: Final = 1 << 18
"""A megabyte on disk; the oldest answers go first."""
_MAX_FILES: Final = 20_000
_SKIPPED: Final = ("node_modules", "__pycache__")
_LONG_PROMPT: Final = 10_000
"""Tokens that take more than a few milliseconds to index."""
_NUM_COMPARED: Final = 32
"""Answers that a new one may be the continuation of."""

logger = logging.getLogger("pipesd.draft")


class DraftLibrary:
    """Makes the lookup sources of an agent, over the texts as ids of the target's vocabulary.

    Belongs to one event loop; threads do the work.

    The history is kept in `history_dir`, a file a vocabulary, which only its owner can read.
    """

    def __init__(self, draft_from: Sequence[str], history_dir: Path) -> None:
        """`draft_from`: paths, and `HISTORY`. Raises `ConfigError` for a path that is not there."""
        self._paths = [Path(name).expanduser() for name in draft_from if name != HISTORY]
        for path in self._paths:
            if not path.exists():
                raise ConfigError(f"There is nothing to draft from at {path}: check --draft-from.")
        self._history_dir = history_dir if HISTORY in draft_from else None
        self._rates, self._files_rates, self._history_rates = LookupRates(), LookupRates(), LookupRates()
        self._quotes = Quotes()
        self._loading = asyncio.Lock()
        self._loaded_for: str | None = None
        self._files: SortedIndex | None = None
        self._history: SortedIndex | None = None
        self._answers: list[Tokens] = []
        self._saving: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to load, now or later."""
        return not self._paths and self._history_dir is None

    def sources(self, body: bytes = b"", bundle: TokenizerBundle | None = None) -> RequestSources:
        """Those of a request; `body` as of `AskRequest`, `bundle`: the target's tokenizer, if known."""
        return RequestSources(self, body, bundle if takes_tools(body) else None)

    def source(self, prompt: Sequence[int], quoted: Sequence[Library] = ()) -> LookupSource:
        """Drafts for one answer after `prompt`, from `quoted`, too. From any thread."""
        return LookupSource(prompt, self._rates, (*self.libraries(), *quoted))

    def quoted(self, body: bytes, bundle: TokenizerBundle) -> Sequence[Library]:
        """What the answer to `body` may quote, if anything. From any thread."""
        found = self._quotes.library(body, bundle)
        return () if found is None else (found,)

    def libraries(self) -> list[Library]:
        """What has been loaded so far."""
        found = ((self._files, self._files_rates), (self._history, self._history_rates))
        return [Library(texts, rates) for texts, rates in found if texts is not None]

    async def load(self, bundle: TokenizerBundle) -> None:
        """Read all for this vocabulary, unless it has been; what cannot be read is left out."""
        digest = hashlib.sha256(bundle.tokenizer_json.encode()).hexdigest()[:16]
        async with self._loading:
            if self._loaded_for == digest or self.is_empty:
                return
            await self._saved()
            self._loaded_for, self._files, self._history, self._answers = digest, None, None, []
            try:
                self._files = await asyncio.to_thread(_files_index, self._paths, bundle.tokenizer_json)
                if self._history_dir is not None:
                    self._answers = await asyncio.to_thread(_read_history, self._history_file())
                    self._history = await asyncio.to_thread(_history_index, self._answers)
            except Exception as error:  # the tokenizer raises no narrower class; drafts are a help only
                logger.warning("drafting without files and history: %s", error)

    def remember(self, tokens: Sequence[int]) -> None:
        """An answer with its prompt is over: later ones are drafted from it, if that was asked for."""
        if self._history_dir is None or self._loaded_for is None:
            return
        text = np.array(tokens[-MAX_HISTORY_TOKENS:], dtype=np.int64)
        if len(text) < 4 or text.max(initial=0) > MAX_TOKEN_ID:
            return
        self._answers = with_answer(self._answers, text.astype(np.int32))
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    async def close(self) -> None:
        """Wait until all is on disk."""
        await self._saved()

    async def _saved(self) -> None:
        if self._saving is not None:
            await self._saving

    async def _save(self) -> None:
        """Index and write the answers, until no newer ones have come meanwhile."""
        saved: list[Tokens] | None = None
        while saved is not self._answers:
            saved, file = self._answers, self._history_file()
            self._history = await asyncio.to_thread(_history_index, saved)
            try:
                await asyncio.to_thread(replace_file, file, joined(saved).tobytes())
            except OSError as error:
                logger.warning("earlier answers are not kept: %s", error)

    def _history_file(self) -> Path:
        assert self._history_dir is not None
        return self._history_dir / f"{self._loaded_for}.tokens"


class RequestSources:
    """`DraftSources` of one request."""

    def __init__(self, library: DraftLibrary, body: bytes, bundle: TokenizerBundle | None) -> None:
        """`bundle`: None where nothing is to be quoted."""
        self._library, self._body, self._bundle = library, body, bundle
        self._quoted: Sequence[Library] | None = None

    def is_quick(self, num_tokens: int) -> bool:
        return num_tokens <= _LONG_PROMPT and self._bundle is None

    def after(self, prompt: Sequence[int]) -> LookupSource:
        if self._bundle is not None and self._quoted is None:
            self._quoted = self._library.quoted(self._body, self._bundle)
        return self._library.source(prompt, self._quoted or ())


def with_answer(answers: Sequence[Tokens], text: Tokens) -> list[Tokens]:
    """`answers`, oldest first, and `text`, in `MAX_HISTORY_TOKENS`; one that `text` continues is left out."""
    older = [each for each in answers[-_NUM_COMPARED:] if not np.array_equal(each, text[: len(each)])]
    kept: list[Tokens] = []
    room = MAX_HISTORY_TOKENS
    for each in reversed([*answers[:-_NUM_COMPARED], *older, text]):
        room -= len(each) + 1
        if room < 0 and kept:
            break
        kept.append(each)
    return kept[::-1]


def readable_texts(paths: Sequence[Path], max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """The UTF-8 texts at `paths` and in folders there, oldest first; the newest of `max_bytes` together.

    Hidden files and folders, links, binary files and files above `MAX_FILE_BYTES` are left out.
    """
    newest = sorted(islice(_files_at(paths), _MAX_FILES), reverse=True, key=lambda file: file.modified_ns)
    texts = []
    for file in newest:
        if file.size > max_bytes:
            continue
        try:
            text = file.path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if "\0" not in text:
            texts.append(text)
            max_bytes -= file.size
    return texts[::-1]


class _File(NamedTuple):
    path: Path
    size: int
    modified_ns: int


def _files_at(paths: Sequence[Path]) -> Iterator[_File]:
    for path in paths:
        if not path.is_dir():
            yield from _regular(path)
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(each for each in folders if each[0] != "." and each not in _SKIPPED)
            for name in sorted(names):
                if name[0] != ".":
                    yield from _regular(Path(folder, name))


def _regular(path: Path) -> Iterator[_File]:
    try:
        found = path.lstat()
    except OSError:
        return
    if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= MAX_FILE_BYTES:
        yield _File(path, found.st_size, found.st_mtime_ns)


def _files_index(paths: Sequence[Path], tokenizer_json: str) -> SortedIndex | None:
    texts = readable_texts(paths)
    if not texts:
        return None
    encode = encoder(tokenizer_json)
    return SortedIndex(joined([encode(text) for text in texts]))


def _history_index(answers: Sequence[Tokens]) -> SortedIndex | None:
    return SortedIndex(joined(answers)) if answers else None


def _read_history(file: Path) -> list[Tokens]:
    """Oldest first; none if there is no such file, or it is not one of ours."""
    try:
        raw = file.read_bytes()
    except OSError:
        return []
    tokens = np.frombuffer(raw[: len(raw) // 4 * 4], dtype=np.int32)
    if tokens.min(initial=0) < BETWEEN_TEXTS or tokens.max(initial=0) > MAX_TOKEN_ID:
        logger.warning("%s is not a history of answers: it is begun anew", file)
        return []
    ends = np.flatnonzero(tokens == BETWEEN_TEXTS)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]
