"""Peak memory is measured, and every way of running out of it ends in one error."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from zoo.memory import OutOfMemoryError, PeakMemory, anonymous_bytes, one_memory_error, state_bytes

MIB = 2**20


def test_peak_sees_memory_that_is_freed_again() -> None:
    with PeakMemory("cpu") as peak:
        block = torch.ones(48 * MIB, dtype=torch.uint8)
        time.sleep(0.3)  # a busy machine lets the sampling thread wait
        del block
        kept = torch.ones(MIB, dtype=torch.uint8)
    assert peak.bytes > 40 * MIB
    assert kept.numel() == MIB
    assert peak.kind == "CPU memory"
    assert peak.reserved is None


def test_memory_that_was_freed_before_counts_when_it_is_used_again() -> None:
    # pieces small enough for the heap, which keeps what lies under one that is still held
    pieces = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(512)]
    held = torch.ones(64 * 1024, dtype=torch.uint8)
    del pieces
    with PeakMemory("cpu") as peak:
        pieces = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(512)]
        time.sleep(0.3)
        del pieces
    assert held.numel() == 64 * 1024
    assert peak.bytes > 28 * MIB


def test_weights_that_were_there_before_count() -> None:
    model = nn.Sequential(nn.Linear(3072, 4096), nn.BatchNorm1d(4096))
    weights = 4 * (3072 * 4096 + 4096 + 4 * 4096) + 8  # with running mean and variance, and the batches counted
    assert state_bytes(model) == weights
    model.register_parameter("again", model[0].weight)  # pyright: ignore[reportArgumentType]
    assert state_bytes(model) == weights
    with PeakMemory("cpu", model) as peak:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    assert peak.bytes > 1.9 * weights
    with torch.device("meta"):
        assert state_bytes(nn.Linear(3, 3)) == 0


def test_mapped_file_pages_do_not_count(tmp_path) -> None:
    path = tmp_path / "layers.bin"
    np.ones(48 * MIB, np.uint8).tofile(path)
    mapped = np.memmap(path, np.uint8, "r")
    before = anonymous_bytes()
    assert int(mapped.sum()) == 48 * MIB
    assert anonymous_bytes() - before < 16 * MIB


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "GPU"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"), "main"),
        (MemoryError("Unable to allocate 3 TiB"), "main"),
        (MemoryError(), "main"),
    ],
)
def test_every_library_runs_out_of_memory_in_one_way(error: Exception, where: str) -> None:
    told = f"out of {where} memory in training x; use less"
    with pytest.raises(OutOfMemoryError, match=told), one_memory_error("training x", "use less"):
        raise error


def test_a_real_allocation_that_cannot_be_met_is_recognised() -> None:
    with pytest.raises(OutOfMemoryError), one_memory_error("a test"):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught, one_memory_error("a test"):
        raise RuntimeError("shapes differ")
    assert not isinstance(caught.value, MemoryError)


@pytest.mark.gpu
def test_peak_on_a_gpu_is_the_allocators() -> None:
    model = nn.Linear(1024, 1024)
    with PeakMemory("cuda", model) as peak:
        model.cuda()
        block = torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
        del block
    assert 68 * MIB <= peak.bytes < 72 * MIB  # the weights once, the block once
    assert peak.reserved is not None
    assert peak.reserved >= peak.bytes
