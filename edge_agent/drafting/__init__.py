"""The drafting thread, the loop it runs, and the models it runs on (`llama` for llama.cpp's)."""

from __future__ import annotations

from edge_agent.drafting.drafter import Drafter, DraftModelInfo
from edge_agent.drafting.events import Drafted, DraftEvent, DraftingStopped, OnEvent, Rewound
from edge_agent.drafting.models import (
    EMBEDDED,
    can_draft,
    check_model,
    embedded_model,
    load_drafter,
    own_tokenizer,
    resolve_model,
)
from edge_agent.drafting.worker import DraftHandle, DraftThread, DraftWorker

__all__ = [
    "EMBEDDED",
    "DraftEvent",
    "DraftHandle",
    "DraftModelInfo",
    "DraftThread",
    "DraftWorker",
    "Drafted",
    "Drafter",
    "DraftingStopped",
    "OnEvent",
    "Rewound",
    "can_draft",
    "check_model",
    "embedded_model",
    "load_drafter",
    "own_tokenizer",
    "resolve_model",
]
