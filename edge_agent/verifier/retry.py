"""When to try a verifier again, how often, and how long each attempt may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from edge_agent.errors import CloudOverloaded, CloudRefused, CloudUnreachable, Transient
from edge_agent.verifier.transport import Connector, Transport

__all__ = ["RETRY_TIMEOUT_S", "RetryPolicy", "RetryTimeout", "RetryTimeoutConnector", "retry_after_s"]

RETRY_TIMEOUT_S = 1.0
"""For a repeated attempt: a network that swallows packets must not cost each request the full timeout."""
_FIRST_DELAY_S: Final = 0.1
_FACTOR: Final = 3.0
_LONGEST_DELAY_S: Final = 2.0
_OVERLOADED_DELAY_S: Final = 2.0
"""For a server that says it is overloaded, but not for how long."""
_LONGEST_RETRY_AFTER_S: Final = 60.0
_JITTER: Final = 0.5
"""Each delay is up to this fraction longer: clients that lost one server do not return to it all at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying. Pure: time and randomness are passed in. None: without a bound.

    Delays grow from 0.1 s to 2 s, and are never shorter than a server's `Retry-After`.
    """

    max_retries: int | None = 3
    """Since the answer last made headway."""
    within_s: float | None = None
    """No attempt begins later than this after the first one began."""
    overloaded_within_s: float | None = 10.0
    """As `within_s`, for servers that say "later": overloaded ones, and those that send `Retry-After`."""

    def delay_s(self, error: Transient, num_retries: int, elapsed_s: float, jitter: float) -> float | None:
        """Seconds to wait after `error` until the next attempt; None: give up.

        `num_retries` so far, `elapsed_s` since the first attempt began, `jitter` from 0 to 1.
        """
        if self.max_retries is not None and num_retries >= self.max_retries:
            return None
        is_overloaded = isinstance(error, CloudOverloaded)
        asked_s = error.retry_after_s
        if asked_s is None:
            asked_s = _OVERLOADED_DELAY_S if is_overloaded else 0.0
        says_later = is_overloaded or error.retry_after_s is not None
        backoff_s = min(_FIRST_DELAY_S * _FACTOR ** min(num_retries, 10), _LONGEST_DELAY_S)
        delay_s = max(backoff_s, min(asked_s, _LONGEST_RETRY_AFTER_S)) * (1 + _JITTER * jitter)
        within_s = self.overloaded_within_s if says_later else self.within_s
        return None if within_s is not None and elapsed_s + delay_s > within_s else delay_s


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110: a number or a date); None if unreadable.

    `now_s`: Unix time.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s)


class RetryTimeout:
    """Limits the next attempt to `full_s`, or after a failure to `retry_s`.

    A distant verifier may need more than `retry_s`. So each attempt that runs out of time doubles the limit,
    up to `full_s`; when that was too short as well, it starts over. `full_s` None: attempts have no limit.
    """

    def __init__(self, full_s: float | None = None, retry_s: float = RETRY_TIMEOUT_S) -> None:
        self._full_s = full_s
        self._retry_s = retry_s if full_s is None else min(retry_s, full_s)
        self.limit_s = full_s

    def succeeded(self) -> None:
        """The verifier answered."""
        self.limit_s = self._full_s

    def failed(self) -> None:
        """The attempt failed by itself, before the limit."""
        self.limit_s = self._retry_s

    def ran_out(self, limit_s: float | None) -> None:
        """The attempt was given up after `limit_s`, the limit when it began."""
        if limit_s is None or limit_s == self._full_s:
            self.failed()
        else:
            self.limit_s = 2 * limit_s if self._full_s is None else min(2 * limit_s, self._full_s)


class RetryTimeoutConnector:
    """A `Connector` whose attempts are shorter after a failure; see `RetryTimeout`."""

    def __init__(self, connector: Connector, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        self._connector = connector
        self._timeout = RetryTimeout(retry_s=retry_timeout_s)

    async def connect(self) -> Transport:
        limit_s = self._timeout.limit_s
        try:
            async with asyncio.timeout(limit_s):
                transport = await self._connector.connect()
        except TimeoutError:
            self._timeout.ran_out(limit_s)
            raise CloudUnreachable("the verifier still does not answer") from None
        except CloudUnreachable:
            self._timeout.failed()
            raise
        except CloudRefused:
            self._timeout.succeeded()
            raise
        self._timeout.succeeded()
        return transport
