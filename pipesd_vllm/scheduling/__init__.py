"""In vLLM's engine process: which sessions exist, what they may verify in the next step.

Exported is what crosses the process boundary, and the pure session. The scheduler itself, which imports vLLM,
is named to vLLM by its path, `pipesd_vllm.scheduling.scheduler.PipeSDScheduler`.
"""

from pipesd_vllm.scheduling.commands import (
    AddDrafts,
    CloseSession,
    Command,
    DecodeAlone,
    OpenSession,
    PassReport,
    SetEager,
    Suspend,
    pack_command,
    unpack_command,
)
from pipesd_vllm.scheduling.engine_session import EngineSession
from pipesd_vllm.scheduling.stopwatch import Clock

__all__ = [
    "AddDrafts",
    "Clock",
    "CloseSession",
    "Command",
    "DecodeAlone",
    "EngineSession",
    "OpenSession",
    "PassReport",
    "SetEager",
    "Suspend",
    "pack_command",
    "unpack_command",
]
