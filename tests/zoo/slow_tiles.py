"""A training whose tiles take long to read, by one process beside it, or else those that it is validated on.

python -m tests.zoo.slow_tiles FRAGMENT OUT train|validation
"""

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


def main(path: str, out: str, slow: str) -> None:
    fragments = open_fragments([path])
    (name, fragment), *_ = fragments.items()
    planes = fragment.label, fragment.papyrus, fragment.supervised
    table = grid_table(name, (whole(fragment.shape),), *planes, tile=32, stride=32)
    contract = InputContract(stored_dtype="uint8", depth=4, tile=32)
    tiles, slow_tiles = TileDataset(fragments, table, contract), SlowTiles(fragments, table, contract)
    settings = {"loss": "bce", "augment": None, "steps": 1000, "batch_size": 2, "precision": "fp32", "num_workers": 1}
    if slow == "train":
        train(Plain(depth=4, tile=32), slow_tiles, load_train_config(**settings), device="cpu", out=out)
    else:
        config = load_train_config(**settings, validate_every=2)
        train(Plain(depth=4, tile=32), tiles, config, device="cpu", out=out, validation=slow_tiles)


if __name__ == "__main__":
    from tests.zoo import slow_tiles  # the one that the process which reads can unpickle

    slow_tiles.main(*sys.argv[1:])
