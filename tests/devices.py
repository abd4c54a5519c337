"""Where torch code is tested: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from typing import Final

import pytest
import torch

__all__ = ["on_each_device", "on_vllms_device"]

_DEVICES: Final = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_each_device = pytest.mark.parametrize("device", _DEVICES)
# vLLM's samplers run on what it takes for its platform alone.
on_vllms_device = pytest.mark.parametrize("device", _DEVICES[-1:])
