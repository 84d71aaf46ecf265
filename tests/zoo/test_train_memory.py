"""A long run does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_recipes.fragment import open_fragments
from data_recipes.recipe import load_recipe
from data_recipes.regions import whole
from data_recipes.sampling import build_table
from data_recipes.tiles import TileDataset, fit_contract
from zoo import create_model
from zoo.memory import anonymous_bytes
from zoo.train.config import load_train_config
from zoo.train.loop import train
from zoo.train.progress import Progress


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resident_memory_is_flat_over_two_thousand_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path))
    fragments = open_fragments(["phantom:dipole:3:192x320"])
    region = {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    contract = fit_contract(fragments, region, depth=5, tile=32)
    table, _ = build_table(fragments, region, load_recipe("random").with_(tile=32, samples=200), seed=0)
    dataset = TileDataset(fragments, table, contract)
    torch.manual_seed(0)
    model = create_model("depthcnn_tiny", depth=5, tile=32, width=4)
    held: dict[int, int] = {}

    def look(now: Progress) -> None:
        if now.step % 100 == 0:
            held[now.step] = anonymous_bytes()

    config = load_train_config(
        steps=2000, batch_size=2, loss="bce+dice", precision="fp32", augment="ink", ema=0.9, checkpoint_steps=500
    )
    train(model, dataset, config, device="cpu", out=tmp_path / "out", on_progress=look)
    early, late = held[500], max(held[step] for step in held if step > 1000)
    assert late - early < 8e6, {step: f"{size / 1e6:.1f} MB" for step, size in held.items()}
