"""Who a connection belongs to: whoever has the same API key. Keeps tenants apart in cache and connections.

The salt goes into the hashes of a turn's KV blocks, so that nobody learns from a fast answer what another
tenant's prompts begin with. It names the key to nobody who lacks the secret, and stands for the tenant in
`OpenConnections`, too.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter

__all__ = ["OpenConnections", "cache_salt", "new_secret"]

_SECRET_BYTES = 32


def new_secret() -> bytes:
    """One for each API server process; it is kept in memory only."""
    return secrets.token_bytes(_SECRET_BYTES)


def cache_salt(secret: bytes, authorization: str | None) -> str:
    """vLLM's `cache_salt` for a connection's `Authorization` header; one for all without a bearer key."""
    scheme, _, key = (authorization or "").partition(" ")
    tenant = key if scheme.lower() == "bearer" else ""
    return hmac.new(secret, tenant.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


class OpenConnections:
    """Counts connections, in all and by tenant, and says which one would be too many."""

    def __init__(self, most: int, most_per_tenant: int) -> None:
        self._most = most
        self._most_per_tenant = most_per_tenant
        self._by_tenant: Counter[str] = Counter()

    def refusal(self, tenant: str) -> str | None:
        """Why `tenant` cannot have one more: "server_full" or "key_full"; None: it can."""
        if self._by_tenant.total() >= self._most:
            return "server_full"
        return "key_full" if self._by_tenant[tenant] >= self._most_per_tenant else None

    def enter(self, tenant: str) -> None:
        """One more is open."""
        self._by_tenant[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One less is open."""
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
