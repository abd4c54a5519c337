"""The mended CPU kernel."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")


def test_expand_keeps_every_dtype() -> None:
    """Temperatures, probabilities and counts reach the draft positions unchanged; 0 becomes 1."""
    import torch

    from pipesd_vllm.worker.cpu_kernels import expand

    totals = torch.tensor([2, 2, 5], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64, torch.int32, torch.int64):
        values = torch.tensor([3, 7, 0], dtype=dtype)
        output = torch.empty(5, dtype=dtype)
        expand(output, values, totals, 0, 1)
        assert output.tolist() == [3, 3, 1, 1, 1]
    output = torch.empty(5)
    expand(output, torch.tensor([0.7, 9.0, 0.25]), totals, 0, 1)
    assert output.tolist() == pytest.approx([0.7, 0.7, 0.25, 0.25, 0.25])
