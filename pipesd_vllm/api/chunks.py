"""The chunks of a turn's input, as vLLM takes them: tokens and a command for the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vllm.engine.protocol import StreamingInput
from vllm.inputs.engine import tokens_input

from pipesd_vllm.api.turn_params import chunk_params, opening_params
from pipesd_vllm.scheduling.commands import Command, OpenSession, pack
from pipesd_vllm.wire import Mode, Open

__all__ = ["later_chunk", "opening_chunk"]

_PLACEHOLDER: Final = (0,)
"""vLLM wants at least one token a chunk; commands without drafts send this one."""


def opening_chunk(opened: Open, cache_salt: str) -> StreamingInput:
    """The first: the prompt, salted for its tenant in vLLM's prefix cache. Raises `RefuseTurn`."""
    num_committed = len(opened.committed)
    command = OpenSession(eager=opened.mode is Mode.LATENCY, num_committed=num_committed)
    params = opening_params(opened.sampling, num_committed, pack(command))
    return StreamingInput(tokens_input([*opened.prompt, *opened.committed], cache_salt=cache_salt), params)


def later_chunk(command: Command, tokens: Sequence[int] = _PLACEHOLDER) -> StreamingInput:
    """Any other: a command, with its draft tokens if it has any."""
    return StreamingInput(tokens_input(list(tokens)), chunk_params(pack(command)))
