"""Our samplers get into vLLM's workers, or vLLM does not start."""

import pytest
from pipesd_vllm.worker.worker_sampling import WrongWorkerError, check_worker

from pipesd_vllm.launch.serve import CPU_WORKER


def test_our_worker_is_accepted() -> None:
    """The class that `pipesd serve` names has the samplers."""
    check_worker(CPU_WORKER)


def test_another_worker_is_refused_by_name() -> None:
    """vLLM's own worker would serve sessions greedily; it is refused with what to do."""
    with pytest.raises(WrongWorkerError, match=r"cpu_worker\.CPUWorker; leave the flag out"):
        check_worker("vllm.v1.worker.cpu_worker.CPUWorker")
