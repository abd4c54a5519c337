"""Records what each session did and when; `analysis` lays it out as a pipeline and draws it."""

from __future__ import annotations

from edge_agent.tracing.events import (
    Committed,
    Drafted,
    Opened,
    PromptKnown,
    RolledBack,
    Sent,
    SessionEnded,
    SessionStarted,
    TraceEvent,
    decode_event,
    encode_event,
)
from edge_agent.tracing.recorder import FileRecorder, MemoryRecorder, NullRecorder, TraceRecorder
from edge_agent.tracing.session_trace import SessionTrace

__all__ = [
    "Committed",
    "Drafted",
    "FileRecorder",
    "MemoryRecorder",
    "NullRecorder",
    "Opened",
    "PromptKnown",
    "RolledBack",
    "Sent",
    "SessionEnded",
    "SessionStarted",
    "SessionTrace",
    "TraceEvent",
    "TraceRecorder",
    "decode_event",
    "encode_event",
]
