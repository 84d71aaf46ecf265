"""A training whose tiles take long to read, by one process beside it: `python -m tests.zoo.slow_tiles FRAGMENT OUT`."""

from __future__ import annotations

import sys
import time
from typing import Any

from data_recipes.fragment import open_fragments
from data_recipes.regions import whole
from data_recipes.sampling import grid_table
from data_recipes.tiles import InputContract, TileDataset
from tests.zoo.plain_model import Plain
from zoo.train.config import load_train_config
from zoo.train.loop import train


class SlowTiles(TileDataset):
    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(0.5)
        return super().__getitem__(index)


def main(path: str, out: str) -> None:
    fragments = open_fragments([path])
    (name, fragment), *_ = fragments.items()
    planes = fragment.label, fragment.papyrus, fragment.supervised
    table = grid_table(name, (whole(fragment.shape),), *planes, tile=32, stride=32)
    tiles = SlowTiles(fragments, table, InputContract(stored_dtype="uint8", depth=4, tile=32))
    settings = {"loss": "bce", "augment": None, "steps": 1000, "batch_size": 2, "precision": "fp32", "num_workers": 1}
    train(Plain(depth=4, tile=32), tiles, load_train_config(**settings), device="cpu", out=out)


if __name__ == "__main__":
    from tests.zoo import slow_tiles  # the one that the process which reads can unpickle

    slow_tiles.main(*sys.argv[1:])
