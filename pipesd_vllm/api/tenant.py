"""Tenants: connections with one API key belong together, in the prefix cache and in the limits.

A tenant's salt goes into the hashes of its turns' KV blocks, so that nobody learns from a fast answer what
another tenant's prompts begin with. Without the secret the salt does not give the key away, so it also stands
for the tenant in `OpenConnections`.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter

__all__ = ["OpenConnections", "cache_salt", "new_secret"]

_SECRET_BYTES = 32


def new_secret() -> bytes:
    """A secret for one API server process; it is kept in memory only."""
    return secrets.token_bytes(_SECRET_BYTES)


def cache_salt(secret: bytes, authorization: str | None) -> str:
    """vLLM's `cache_salt` for an `Authorization` header; all connections without a bearer key share one."""
    scheme, _, key = (authorization or "").partition(" ")
    tenant = key if scheme.lower() == "bearer" else ""
    return hmac.new(secret, tenant.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


class OpenConnections:
    """Counts connections, in all and by tenant, and decides which one would be too many (HTTP 429)."""

    def __init__(self, limit: int, limit_per_tenant: int) -> None:
        self._limit = limit
        self._limit_per_tenant = limit_per_tenant
        self._by_tenant: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._by_tenant.total()

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._by_tenant

    def refusal(self, tenant: str) -> str | None:
        """Why `tenant` cannot open one more, "server_full" or "key_full"; None if it can."""
        if len(self) >= self._limit:
            return "server_full"
        return "key_full" if self._by_tenant[tenant] >= self._limit_per_tenant else None

    def enter(self, tenant: str) -> None:
        """Count a connection that was opened."""
        self._by_tenant[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Count a connection that was closed."""
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
