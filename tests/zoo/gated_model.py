"""A model that answers to one batch in each process, and to more once the file named in INKZOO_TEST_GATE is there.

Where that file holds NO_MEMORY, it fails then.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from torch import Tensor

from tests.zoo.plain_model import Plain
from zoo.models.base import Heads

GATE, NO_MEMORY = "INKZOO_TEST_GATE", "DefaultCPUAllocator: can't allocate memory"
_batches = itertools.count()


class Gated(Plain):
    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        gate = os.environ.get(GATE)
        if next(_batches) and gate:
            while not Path(gate).exists():
                time.sleep(0.05)
            if Path(gate).read_text() == NO_MEMORY:
                raise RuntimeError(NO_MEMORY)
        return super().heads(volume, task)


build_gated = Gated
