"""Our executor overrides what vLLM's engine calls."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from pipesd_vllm.fill_in import FillIn, speculative_config
from pipesd_vllm.worker.cpu_executor import PipeSDCpuExecutor


class Worker:
    """Has drafts, and counts who asks."""

    def __init__(self) -> None:
        self.num_asked = 0

    def take_draft_token_ids(self) -> str:
        self.num_asked += 1
        return "drafts"


def executor(config: dict[str, object], worker: Worker) -> Any:
    made: Any = object.__new__(PipeSDCpuExecutor)
    made.vllm_config = SimpleNamespace(speculative_config=SimpleNamespace(**config))
    made.driver_worker = worker
    return made


def test_the_method_is_what_vllm_calls_after_a_step() -> None:
    """Its name and its parameters."""
    ours, theirs = PipeSDCpuExecutor.take_draft_token_ids, UniProcExecutor.take_draft_token_ids
    assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()
    assert "take_draft_token_ids" in EngineCore.post_step.__code__.co_names


def test_nobody_is_asked_where_edges_alone_draft() -> None:
    """A step is not followed by a second call to the worker."""
    worker = Worker()
    assert executor(speculative_config(FillIn.NONE), worker).take_draft_token_ids() is None
    assert worker.num_asked == 0


@pytest.mark.parametrize(
    "config",
    [speculative_config(FillIn.NGRAM), {"method": "eagle", "prompt_lookup_min": None}],
    ids=["ngram", "the operator's own"],
)
def test_the_worker_is_asked_where_vllm_drafts(config: dict[str, object]) -> None:
    """vLLM's speculator has something to say."""
    worker = Worker()
    assert executor(config, worker).take_draft_token_ids() == "drafts"
    assert worker.num_asked == 1
