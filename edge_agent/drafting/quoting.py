"""What a tool call quotes: texts of the conversation, as the target writes them into a JSON string.

A tool says a file as it is; the call that writes it back says it with its line ends and quotes escaped, which
are other tokens. So drafts are looked up in escaped copies, too; and what stood in a call, in plain ones.
Tools that number the lines of a file say more than the call that writes it: they are copied without.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, Final

import msgspec

from edge_agent.api import TokenizerBundle
from edge_agent.drafting.lookup import MAX_TOKEN_ID, Library, LookupRates, SortedIndex
from edge_agent.drafting.texts import Tokens, encoder, joined

__all__ = ["Quotes", "quotable", "takes_tools", "unnumbered"]

MAX_QUOTED_CHARS: Final = 1 << 18
"""Of one conversation: the newest texts."""
_MAX_KEPT: Final = 256
"""Texts whose tokens are remembered: a conversation is sent whole with each of its requests."""
_MIN_CHARS: Final = 16
_NUMBER: Final = r"[ \t]*(\d{1,7})(\t|\u2192|:| ?\|)"
"""As `cat -n`, `grep -n` and agents' tools put it before a line."""
_LISTING: Final = re.compile(rf"(?:^{_NUMBER}.*(?:\n|\Z)){{3,}}", re.MULTILINE | re.ASCII)
_NUMBERED_LINE: Final = re.compile(rf"{_NUMBER}(.*)", re.ASCII)


class Quotes:
    """Makes indexes of what a request's answer may quote. Any thread may ask."""

    def __init__(self) -> None:
        self._rates = LookupRates()
        self._lock = Lock()
        self._encode: Callable[[str], Tokens]
        """In the vocabulary of `_tokenizer_json`."""
        self._tokenizer_json = ""
        self._kept: OrderedDict[str, Tokens] = OrderedDict()

    def library(self, body: bytes, bundle: TokenizerBundle) -> Library | None:
        """Of the conversation in `body`, in the vocabulary of `bundle`; None: there is nothing to quote."""
        texts = list(quotable(body))
        if not texts:
            return None
        with self._lock:
            found = [tokens for text in texts if len(tokens := self._tokens(text, bundle))]
        if not found:
            return None
        return Library(SortedIndex(joined(found)), self._rates)

    def _tokens(self, text: str, bundle: TokenizerBundle) -> Tokens:
        if self._tokenizer_json != bundle.tokenizer_json:
            self._encode = encoder(bundle.tokenizer_json)
            self._tokenizer_json = bundle.tokenizer_json
            self._kept.clear()
        kept = self._kept.pop(text, None)
        if kept is None:
            kept = self._encode(text)
            kept = kept[kept <= MAX_TOKEN_ID]
        self._kept[text] = kept
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return kept


def takes_tools(body: bytes) -> bool:
    """Whether the answer to `body` may call a tool, as far as can be told at a glance."""
    return b'"tools"' in body


def quotable(body: bytes) -> Iterator[str]:
    """Texts of the conversation in `body` as a tool call would say them, and those of calls as a text would.

    Those that are the same there are left out. `MAX_QUOTED_CHARS` at most: the newest, oldest first.
    """
    try:
        messages = msgspec.json.decode(body)["messages"]
    except (ValueError, KeyError, TypeError):
        return
    found: OrderedDict[str, None] = OrderedDict()
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            for text in _texts(message):
                found.pop(text, None)
                found[text] = None
    room, newest = MAX_QUOTED_CHARS, []
    for text in reversed(found):
        room -= len(text)
        if room < 0:
            break
        newest.append(text)
    yield from reversed(newest)


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    for part in content if isinstance(content, list) else (content,):
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str) and len(text) >= _MIN_CHARS:
            plain = unnumbered(text)
            if plain != text:
                yield plain
            quoted = _quoted(plain)
            if quoted != plain:
                yield quoted
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        for text in _strings(call):
            if len(text) >= _MIN_CHARS and _quoted(text) != text:
                yield text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def unnumbered(text: str) -> str:
    """`text`, its listings without the numbers of their lines."""
    return _LISTING.sub(_listed, text)


def _listed(listing: re.Match[str]) -> str:
    lines = listing[0].split("\n")
    found = [mark.groups() for line in lines if (mark := _NUMBERED_LINE.match(line))]
    first = int(found[0][0])
    if [int(number) for number, _, _ in found] != [*range(first, first + len(found))]:
        return listing[0]
    rest = [line for _, _, line in found]
    if found[0][1] not in "\t\u2192" and all(line[:1] in (" ", "") for line in rest):
        rest = [line[1:] for line in rest]
    return "\n".join(rest) + "\n" * (not lines[-1])


def _strings(call: Any) -> Iterator[str]:
    """All strings among a call's arguments."""
    try:
        arguments = call["function"]["arguments"]
        left = [msgspec.json.decode(arguments) if isinstance(arguments, str) else arguments]
    except (ValueError, KeyError, TypeError):
        return
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list):
            left += value
