"""fp16: the gradient scaler, its overflows and its state, with Fabric's own plugin on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file

from data_recipes.fragment import open_fragments
from data_recipes.regions import Rect
from data_recipes.sampling import grid_table
from data_recipes.tiles import TileDataset, fit_contract
from tests.zoo.plain_model import Plain
from tests.zoo.test_train_command import write_fragment
from zoo import create_model
from zoo.checkpoint import read_info
from zoo.device import Chosen
from zoo.train import loop
from zoo.train.config import load_train_config
from zoo.train.loop import TrainReport, train
from zoo.train.optim import make_optimizer
from zoo.train.state import find_state

FIRST_SCALE = 2.0**40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TileDataset:
    fragments = open_fragments([write_fragment(tmp_path_factory.mktemp("fp16") / "scrap")])
    fragment, rects = fragments["scrap"], (Rect(0, 128, 0, 128),)
    contract = fit_contract(fragments, {"scrap": rects}, depth=4, tile=32)
    args = fragment.label, fragment.papyrus, fragment.supervised
    return TileDataset(fragments, grid_table("scrap", rects, *args, tile=32, stride=32), contract)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 as on a GPU: autocast, and a scaler whose first scale overflows."""

    def make_fabric(*_: Any) -> Fabric:
        scaler: Any = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=4)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    monkeypatch.setattr(loop, "training_precision", lambda *_: "fp16")
    monkeypatch.setattr(loop, "make_fabric", make_fabric)


def run(dataset: TileDataset, out: Path, *, resume: bool = False, **fields: Any) -> TrainReport:
    settings = {"loss": "bce", "augment": None, "steps": 30, "batch_size": 2, "checkpoint_steps": 28, **fields}
    torch.manual_seed(0)
    model = Plain(depth=4, tile=32)
    return train(model, dataset, load_train_config(**settings), device="cpu", out=out, resume=resume)


def test_steps_that_overflow_are_skipped_and_the_scale_comes_down(dataset, tmp_path: Path, scaled, monkeypatch) -> None:
    monkeypatch.setattr(loop, "drop_states", lambda _: None)
    report = run(dataset, tmp_path)
    who = read_info(tmp_path / "last.safetensors")["config"]["identity"]
    found = find_state(tmp_path / "state", who, resume=True, say=pytest.fail)
    assert found
    assert 0 < found[1].scaler["scale"] < FIRST_SCALE
    assert (report.steps, report.precision, who["computed in"]) == (30, "fp16", "fp16")


def test_the_scaler_goes_on_where_it_stopped(dataset, tmp_path: Path, scaled, monkeypatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    whole = run(dataset, tmp_path / "whole")
    losses = loop.late_losses
    monkeypatch.setattr(loop, "late_losses", killed)  # after the last step, with the state of step 28
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut")
    monkeypatch.setattr(loop, "late_losses", losses)
    assert run(dataset, tmp_path / "cut", resume=True).losses == whole.losses
    first, second = (load_file(tmp_path / out / "last.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_adamw_is_fused_on_a_gpu_but_not_in_fp16() -> None:
    model, config = create_model("depthcnn_tiny", depth=4, tile=32), load_train_config(steps=1)

    def fused(precision: Chosen) -> bool:
        return make_optimizer(model, config, torch.device("cuda"), precision).defaults["fused"]

    assert (fused("fp32"), fused("bf16"), fused("fp16")) == (True, True, False)
