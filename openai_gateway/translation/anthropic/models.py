"""The models as Anthropic lists them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from openai_gateway.chat_service import Json

__all__ = ["model_entry", "model_list"]


def model_entry(name: str, created_s: int) -> Json:
    """One model."""
    created = datetime.fromtimestamp(created_s, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def model_list(names: Sequence[str], created_s: int) -> Json:
    """All of them, on one page."""
    data = [model_entry(name, created_s) for name in names]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
