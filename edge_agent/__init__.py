"""Edge side of PipeSD: drafts locally, uploads drafts, follows the committed stream.

`EdgeAgent.start(load_settings({...}))` makes an agent, which is a `Generator`. Everything it raises is in
`edge_agent.errors`, all of what it is asked and answers in `edge_agent.api`, the fakes for tests in
`edge_agent.testing`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from edge_agent.api import GenerationRequest, Generator
from edge_agent.errors import EdgeError

if TYPE_CHECKING:
    from edge_agent.agent import EdgeAgent
    from edge_agent.settings import EdgeSettings, load_settings, setting_origins

__all__ = [
    "EdgeAgent",
    "EdgeError",
    "EdgeSettings",
    "GenerationRequest",
    "Generator",
    "load_settings",
    "setting_origins",
]

_LOADED_WHEN_USED: Final = {
    "EdgeAgent": "edge_agent.agent",
    "EdgeSettings": "edge_agent.settings",
    "load_settings": "edge_agent.settings",
    "setting_origins": "edge_agent.settings",
}
"""Names whose modules take long to import, and these modules."""


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        return getattr(importlib.import_module(_LOADED_WHEN_USED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
