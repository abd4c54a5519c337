"""Keys that clients need, each with a label for logs and limits, from settings and files."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request

from edge_agent.errors import ConfigError
from openai_gateway.errors import InvalidApiKey, TooManyRequests
from openai_gateway.http.context import CURRENT

__all__ = ["DEFAULT_LABEL", "ApiKeys", "key_check", "read_keys"]

DEFAULT_LABEL: Final = "default"


class ApiKeys:
    """Keys and their labels; `limit` is how many requests with one of them may be under way at a time."""

    def __init__(self, labels: Mapping[str, str], limit: int | None = None) -> None:
        self._labels = {key.encode(): label for key, label in labels.items()}
        self._limit = limit
        self._running: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._labels)

    def label(self, given: Iterable[str]) -> str:
        """The label of the first of `given` that is a key. Raises `InvalidApiKey` if none is."""
        # Header bytes arrive decoded as latin-1. Comparing must not tell by its time how much was right.
        for key in (each.encode("latin-1") for each in given):
            for known, label in self._labels.items():
                if hmac.compare_digest(key, known):
                    return label
        raise InvalidApiKey

    def enter(self, label: str) -> Callable[[], None]:
        """Count a request with the key called `label`; call what it returns when the request is over.

        Raises `TooManyRequests` where its limit is reached.
        """
        if self._limit is not None and self._running[label] >= self._limit:
            raise TooManyRequests(self._limit)
        self._running[label] += 1

        def leave() -> None:
            self._running[label] -= 1

        return leave


def key_check(keys: ApiKeys) -> Callable[[Request], Awaitable[None]]:
    """A dependency that raises `InvalidApiKey` unless the request has one of `keys`; without any all pass.

    It is a bearer token, as OpenAI's clients send it, or Anthropic's `x-api-key`.
    """

    async def check(request: Request) -> None:
        if not keys:
            return
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [request.headers.get("x-api-key", "")]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        label = keys.label(key for key in given if key)
        if (current := CURRENT.get()) is not None:
            current.key_label = label
            current.at_end.append(keys.enter(label))

    return check


def read_keys(file: Path) -> dict[str, str]:
    """Keys and labels of a file with `LABEL KEY` or `KEY` on each line; a line that `#` begins is a comment.

    Raises `ConfigError` for a file that cannot be read, a line that is none, and what is there twice.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The key file {file} cannot be read: {error}.") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key, label = words[-1], words[0] if len(words) == 2 else f"line {number}"
        if len(words) > 2 or not key.isprintable() or key in found or label in found.values():
            raise ConfigError(f"{file}, line {number}: write LABEL KEY, each of them once.")
        found[key] = label
    if not found:
        raise ConfigError(f"The key file {file} has no keys: nobody could use the gateway.")
    return found
