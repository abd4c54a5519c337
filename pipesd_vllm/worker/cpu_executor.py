"""vLLM's executor of the CPU build, which never asks the worker for drafts: they come from the edges.

vLLM asks once after every step, in a process of its own even for one worker. The answer is always nothing
(`proposer.py`), and the question is in the way of the step's output, and of the next step.
"""

from __future__ import annotations

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.outputs import DraftTokenIds

__all__ = ["PipeSDCpuExecutor"]


class PipeSDCpuExecutor(MultiprocExecutor):
    """Named in `--distributed-executor-backend`, in place of the `mp` that vLLM's CPU build takes."""

    def take_draft_token_ids(self) -> DraftTokenIds | None:
        """None: nothing was proposed."""
        return None
