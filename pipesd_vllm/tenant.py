"""Who a connection belongs to, as far as the prefix cache is concerned: whoever has the same API key.

The salt goes into the hashes of a turn's KV blocks, so that nobody learns from a fast answer what another
tenant's prompts begin with. It names the key to nobody who lacks the secret.
"""

from __future__ import annotations

import hmac
import secrets

__all__ = ["cache_salt", "new_secret"]

_SECRET_BYTES = 32


def new_secret() -> bytes:
    """One for each API server process; it is kept in memory only."""
    return secrets.token_bytes(_SECRET_BYTES)


def cache_salt(secret: bytes, authorization: str | None) -> str:
    """vLLM's `cache_salt` for a connection's `Authorization` header; one for all without a bearer key."""
    scheme, _, key = (authorization or "").partition(" ")
    tenant = key if scheme.lower() == "bearer" else ""
    return hmac.new(secret, tenant.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
