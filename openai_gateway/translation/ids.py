"""Ids for what a translator makes up."""

from __future__ import annotations

import uuid

__all__ = ["random_id"]


def random_id(prefix: str) -> str:
    """`prefix` and 32 random hexadecimal digits."""
    return prefix + uuid.uuid4().hex
