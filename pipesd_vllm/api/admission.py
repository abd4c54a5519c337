"""What turns may take of a server: KV cache in all and by tenant, turns and frames by the second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from pipesd_vllm.api.validation import RefuseTurn
from pipesd_vllm.scheduling import Clock
from pipesd_vllm.wire import RefusalCode

__all__ = ["Hold", "OpenContexts", "Tenant", "TokenBucket"]

_KV_RETRY_S: Final = 5.0
"""When a server whose KV cache is full asks to be tried again: some answers will have ended by then."""


class TokenBucket:
    """Lets `per_s` things pass a second, and `burst` at once."""

    def __init__(self, per_s: float, burst: float, clock: Clock) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at_s = clock()

    def wait_s(self) -> float:
        """Seconds until another one may pass."""
        now_s = self._clock()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, -self._left / self._per_s)

    def take(self, amount: float = 1.0) -> float:
        """Let `amount` pass, and return the seconds for which nothing more may."""
        self.wait_s()
        self._left -= amount
        return self.wait_s()


class OpenContexts:
    """Counts the tokens of the turns that hold KV blocks, and refuses turns that there is no room for.

    More contexts than the cache holds would push each other out at each pass. A tenant's first turn is
    refused only where others have filled the cache, the server's first never: vLLM knows what fits.
    """

    def __init__(self, limit: float | None = None, limit_per_tenant: float | None = None) -> None:
        """In tokens; None: no limit."""
        self._limit = limit
        self._limit_per_tenant = limit_per_tenant
        self._by_tenant: Counter[str] = Counter()

    @property
    def num_tokens(self) -> int:
        return self._by_tenant.total()

    def refusal(self, tenant: str, num_tokens: int) -> str | None:
        """Why there is no room for a turn of so many tokens, "kv_full" or "key_kv_full"; None if there is."""
        own, held = self._by_tenant[tenant], self.num_tokens
        if self._limit is not None and held and held + num_tokens > self._limit:
            return "kv_full"
        limit = self._limit_per_tenant
        return "key_kv_full" if limit is not None and own and own + num_tokens > limit else None

    def add(self, tenant: str, num_tokens: int) -> None:
        """Count tokens, or with a negative number count them no longer."""
        self._by_tenant[tenant] += num_tokens
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]


class Hold:
    """What one turn has of the KV cache; a context in which it is counted, but while it is suspended."""

    def __init__(self, contexts: OpenContexts, tenant: str, num_tokens: int) -> None:
        self._contexts = contexts
        self._tenant = tenant
        self._num_tokens = num_tokens
        self._is_counted = False

    def resume(self) -> None:
        """The turn has its blocks, or will get them back."""
        if not self._is_counted:
            self._is_counted = True
            self._contexts.add(self._tenant, self._num_tokens)

    def suspend(self) -> None:
        """The turn gives its blocks back."""
        if self._is_counted:
            self._is_counted = False
            self._contexts.add(self._tenant, -self._num_tokens)

    def grow(self, num_tokens: int) -> None:
        """The turn has so many tokens more."""
        self._num_tokens += num_tokens
        if self._is_counted:
            self._contexts.add(self._tenant, num_tokens)


class Tenant:
    """The part of a server that connections with one API key share. `name` says nothing of the key."""

    def __init__(
        self,
        name: str = "",
        contexts: OpenContexts | None = None,
        turns: TokenBucket | None = None,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_refusal` is told why a turn was refused."""
        self.name = name
        self._contexts = contexts or OpenContexts()
        self._turns = turns
        self._on_refusal = on_refusal

    def begin_turn(self) -> None:
        """Count a turn that is asked for. Raises `RefuseTurn` for one too many in the last seconds."""
        if self._turns is None:
            return
        if (wait_s := self._turns.wait_s()) > 0.0:
            self._refuse("key_turns", "too many turns a second with this API key; try again later", wait_s)
        self._turns.take()

    def hold(self, num_tokens: int) -> Hold:
        """Room for a context of so many tokens. Raises `RefuseTurn` if there is none."""
        reason = self._contexts.refusal(self.name, num_tokens)
        if reason is not None:
            whose = "the sessions of this API key fill" if reason == "key_kv_full" else "sessions fill"
            self._refuse(reason, f"{whose} the KV cache; try again in some seconds", _KV_RETRY_S)
        hold = Hold(self._contexts, self.name, num_tokens)
        hold.resume()
        return hold

    def _refuse(self, reason: str, message: str, retry_after_s: float) -> None:
        self._on_refusal(reason)
        raise RefuseTurn(RefusalCode.OVERLOADED, message, retry_after_s)
