"""Energy from the hardware's own counters, or a reason why there is none; nothing is ever estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["EnergyMeter", "find_meter", "rapl_joules"]

_POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """`joules` is a running total, or None: not measured, for the reason in `description`."""

    description: str
    joules: Callable[[], float | None] = lambda: None


def find_meter(powercap: Path = _POWERCAP) -> EnergyMeter:
    """NVML's total-energy counters (all GPUs) and RAPL's (all packages), as far as they exist."""
    gpus, no_gpu = _gpu_handles()
    packages = sorted(path for path in powercap.glob("intel-rapl:?") if _readable(path))
    parts = []
    if gpus:
        parts.append(f"NVML total-energy counter of {len(gpus)} GPU(s)")
    if packages:
        parts.append(f"RAPL counter of {len(packages)} CPU package(s)")
    if not parts:
        return EnergyMeter(f"not measured: {no_gpu}, and no readable RAPL counter in {powercap}")
    return EnergyMeter(" and ".join(parts), lambda: rapl_joules(packages) + _gpu_joules(gpus))


def rapl_joules(packages: Sequence[Path]) -> float:
    """Sum of the counters. They wrap after some hours at full load; a difference over a run rarely does."""
    return sum(int((path / "energy_uj").read_text()) for path in packages) / 1e6


def _readable(package: Path) -> bool:
    try:
        int((package / "energy_uj").read_text())
    except (OSError, ValueError):
        return False
    return True


def _gpu_handles() -> tuple[list[Any], str]:
    """Of all GPUs, and why there are none."""
    try:
        import pynvml
    except ImportError:
        return [], "NVML's Python package (nvidia-ml-py) is not installed"
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return [], f"NVML has no energy counter here ({error})"
    return handles, "no GPU"


def _gpu_joules(handles: Sequence[Any]) -> float:
    if not handles:
        return 0.0
    import pynvml

    millijoules: int = sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)
    return millijoules / 1e3
