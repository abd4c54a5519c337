"""vLLM's GPU worker with the edges' drafts: `--worker-cls pipesd_vllm.worker.worker.PipeSDWorker`."""

from __future__ import annotations

from vllm.v1.worker.gpu_worker import Worker

from pipesd_vllm.worker.draft_worker import VerifiesDrafts

__all__ = ["PipeSDWorker"]


class PipeSDWorker(VerifiesDrafts, Worker):
    """`cpu_worker.py` has the one for vLLM's CPU build."""
