"""The drafting thread, the loop it runs, and the models it runs on (`llama` for llama.cpp's)."""

from __future__ import annotations

from edge_agent.drafting.choice import (
    FAMILIES,
    DraftFile,
    Family,
    chosen,
    drafts_at_hand,
    family_of,
    fits,
    fitting,
    hub_drafts,
)
from edge_agent.drafting.drafter import Drafter, DraftModelInfo
from edge_agent.drafting.events import Drafted, DraftEvent, DraftingStopped, OnEvent, Rewound
from edge_agent.drafting.library import DraftLibrary
from edge_agent.drafting.loop import GuardedPicker
from edge_agent.drafting.models import (
    EMBEDDED,
    NO_MODEL,
    can_draft,
    check_model,
    drafts_without_model,
    embedded_model,
    load_drafter,
    own_tokenizer,
    resolve_model,
)
from edge_agent.drafting.source import DraftSource, DraftSources, GuardedSource
from edge_agent.drafting.translation import TranslatingDrafter, VocabularyMap
from edge_agent.drafting.worker import DraftHandle, DraftThread, DraftWorker

__all__ = [
    "EMBEDDED",
    "FAMILIES",
    "NO_MODEL",
    "DraftEvent",
    "DraftFile",
    "DraftHandle",
    "DraftLibrary",
    "DraftModelInfo",
    "DraftSource",
    "DraftSources",
    "DraftThread",
    "DraftWorker",
    "Drafted",
    "Drafter",
    "DraftingStopped",
    "Family",
    "GuardedPicker",
    "GuardedSource",
    "OnEvent",
    "Rewound",
    "TranslatingDrafter",
    "VocabularyMap",
    "can_draft",
    "check_model",
    "chosen",
    "drafts_at_hand",
    "drafts_without_model",
    "embedded_model",
    "family_of",
    "fits",
    "fitting",
    "hub_drafts",
    "load_drafter",
    "own_tokenizer",
    "resolve_model",
]
