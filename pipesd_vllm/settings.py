"""Limits of the server side, read once from `PIPESD_SERVER_*` environment variables.

Environment, because vLLM owns the command line of the process the plugin lives in.
"""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServerSettings(BaseSettings):
    """Settings of one API server process. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="PIPESD_SERVER_", frozen=True, extra="forbid")

    idle_timeout_s: float = Field(300.0, gt=0)
    """A connection with neither turn nor frame for this long is closed."""
    suspend_after_s: float = Field(5.0, gt=0)
    """An open turn that waits for drafts this long gives its KV blocks back."""
    abandon_after_s: float = Field(120.0, gt=0)
    """An open turn that waits for drafts this long is ended."""
    send_timeout_s: float = Field(2.0, gt=0)
    """A client that does not read for this long is dropped."""
    max_message_bytes: int = Field(64 << 20, ge=1 << 20)
    """Largest message that comes in parts: the body of a request with images, above all."""
    max_sessions: int = Field(1024, ge=1)
    """Connections at a time; more are refused with HTTP 429."""
    key_share: float = Field(0.25, gt=0, le=1)
    """The share of `max_sessions` and of the KV cache that one API key may take; never less than an equal
    share for each key."""

    kv_share: float = Field(2.0, gt=0)
    """The contexts of open turns, as a share of the KV cache, beyond which a turn is refused (`overloaded`).
    More than 1: what prompts begin with alike, and so share in the cache, is counted for each."""
    max_turns_s: float = Field(100.0, gt=0)
    """Turns a second that one API key may begin, and twice as many at once."""
    max_frames_s: float = Field(1000.0, gt=0)
    """Frames a second that one connection is read at, 16 drafts counting as one more; faster senders wait."""

    def share_per_key(self, num_keys: int) -> float:
        """The part of the server that one of `num_keys` API keys may take (0: the server asks for none)."""
        return max(self.key_share, 1 / max(1, num_keys))

    def max_sessions_per_key(self, num_keys: int) -> int:
        """The most connections at a time with one of `num_keys` API keys."""
        return max(1, int(self.max_sessions * self.share_per_key(num_keys)))
