"""How much memory a piece of work needs at its peak, and one error for when there is not enough."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch import nn

_SAMPLE_SECONDS = 0.003
_CPU_SIGNS = ("DefaultCPUAllocator", "not enough memory", "Unable to allocate", "bad allocation", "bad_alloc")
_GPU_SIGNS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemoryError(MemoryError):
    """The device or the machine has no memory left; the message says for what and what to change."""


@contextlib.contextmanager
def one_memory_error(what: str, advice: str = "use a smaller batch, tile or depth") -> Iterator[None]:
    """Turn every library's way of running out of memory inside the block into OutOfMemoryError."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        where = out_of_memory(error)
        if where is None:
            raise
        raise OutOfMemoryError(f"out of {where} memory in {what}; {advice}") from error


def out_of_memory(error: Exception) -> str | None:
    """Which memory ran out, "GPU" or "main", if that is what an error of any library says; else None."""
    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in text for sign in _GPU_SIGNS):
        return "GPU"
    if isinstance(error, MemoryError) or any(sign in text for sign in _CPU_SIGNS):
        return "main"
    return None


class PeakMemory:
    """Peak memory of a block: `with PeakMemory(device, model) as peak: …`, then `peak.bytes` and `peak.kind`.

    On a GPU the allocator's peak, with what it kept in reserve in `peak.reserved`. On a CPU the peak growth of this
    process's anonymous resident memory (RssAnon: mapped file pages do not count) over what it was on entering,
    sampled every few milliseconds by a thread, and the weights of `model`, which lay there before: a GPU's peak has
    them too, so either is weights, gradients, optimiser state and activations together. What was freed before goes
    back to the system on entering, where the C library can (glibc), for memory that is kept and used again would not
    show; elsewhere compare models in fresh processes. Where /proc is missing, the growth of the whole resident set.

    Attributes:
        bytes: the peak.
        reserved: bytes a GPU's allocator kept; None on a CPU.
        kind: what `bytes` is of, in words short enough for a column's heading.
    """

    def __init__(self, device: torch.device | str = "cpu", model: nn.Module | None = None):
        self.device = torch.device(device)
        self.bytes = 0
        self.reserved: int | None = None
        self._held = 0
        if self.device.type == "cuda":
            self.kind = "GPU memory"
        else:
            self.kind = "CPU memory" if _STATM.exists() else "CPU memory, files too"
            self._held = state_bytes(model) if model is not None else 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        _give_back_freed()
        self._start = self._highest = anonymous_bytes()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            self.reserved = torch.cuda.max_memory_reserved(self.device)
            return
        self._done.set()
        self._sampler.join()
        self.bytes = max(self._highest, anonymous_bytes()) - self._start + self._held

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._highest = max(self._highest, anonymous_bytes())


def _give_back_freed() -> None:
    """Return freed pages that the C library keeps for later to the system."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process; its whole resident set where /proc is missing."""
    try:
        _, resident, shared = _STATM.read_text().split()[:3]
    except OSError:
        return psutil.Process().memory_info().rss
    return (int(resident) - int(shared)) * _PAGE


def state_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each counted once; tensors on the meta device hold none."""
    tensors = [*model.parameters(), *model.buffers()]  # either leaves out repeats of its own kind
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device.type != "meta")
