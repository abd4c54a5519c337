"""Our executor overrides what vLLM's engine calls."""

from __future__ import annotations

import inspect

from vllm.v1.engine.core import EngineCore
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from pipesd_vllm.worker.cpu_executor import PipeSDCpuExecutor


def test_drafts_are_not_asked_for() -> None:
    """The method is still what vLLM calls after a step, and ours needs no worker to answer it."""
    ours, theirs = PipeSDCpuExecutor.take_draft_token_ids, MultiprocExecutor.take_draft_token_ids
    assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()
    assert "take_draft_token_ids" in EngineCore.post_step.__code__.co_names
    assert ours(object.__new__(PipeSDCpuExecutor)) is None
