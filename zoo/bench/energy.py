"""Energy by the driver's own counter, read through NVML, which comes with NVIDIA's driver."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

_LIBRARY = "libnvidia-ml.so.1"


def joules(device: torch.device) -> float | None:
    """What the GPU's whole board has used since its driver was loaded, J, to take differences of.

    Other processes on the board are in it. The counter moves every 0.1 s or so. None where the driver does not tell: on
    a CPU, on a part of a GPU (MIG), on a GPU older than Volta.
    """
    if device.type != "cuda":
        return None
    board = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    library = _nvml()
    if library is None or library.nvmlInit_v2():
        return None
    handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlDeviceGetHandleByUUID(board.encode(), ctypes.byref(handle)):
        return None
    if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)):
        return None
    return used.value / 1000


def _nvml() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
