"""Validation, early stop, averages, TensorBoard, half precision, and starting from another run's weights."""

from __future__ import annotations

import copy
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from lightning_fabric import Fabric
from torch import nn

from data_recipes.fragment import open_fragments
from data_recipes.regions import Rect
from data_recipes.sampling import grid_table
from data_recipes.tiles import TileDataset, fit_contract
from tests.zoo.small_sam import small
from zoo import create_model
from zoo.adapter import load_adapter
from zoo.checkpoint import load_checkpoint
from zoo.metrics import InkHistogram
from zoo.models.base import Heads, InkModel
from zoo.models.depthcnn import DepthCNN
from zoo.train import loop
from zoo.train.average import averaged_weights, make_average, update_average
from zoo.train.config import TrainConfig, load_train_config
from zoo.train.engine import check_sharded
from zoo.train.interrupt import same_everywhere
from zoo.train.laps import Laps, laps_table
from zoo.train.log import read_log
from zoo.train.loop import TrainReport, train
from zoo.train.optim import make_optimizer, schedule
from zoo.train.progress import Progress
from zoo.train.start import start_from
from zoo.train.validate import Validation, holds_ink, validate

DEPTH, SIDE, TILE = 4, 128, 32


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileDataset, TileDataset]:
    """Tiles of the left half of a fragment whose ink is bright in the upper layers, and tiles of its right half."""
    folder = tmp_path_factory.mktemp("bright")
    (folder / "layers").mkdir()
    rng = np.random.default_rng(0)
    ink = np.kron(rng.random((4, 4)) < 0.5, np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8)
    for number in range(DEPTH):
        layer = rng.normal(90 + 80 * ink * (number < 2), 12).clip(0, 255).astype(np.uint8)
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", layer)
    tifffile.imwrite(folder / f"{folder.name}_inklabels.tif", ink * 255)
    (folder / "fragment.yaml").write_text("name: bright\ncenter_layer: 2\ndirection: forward\nvoxel_um: 7.91\n")
    fragments = open_fragments([folder])
    fragment = fragments["bright"]
    sides = [(Rect(0, SIDE, 0, SIDE // 2),), (Rect(0, SIDE, SIDE // 2, SIDE),)]
    contract = fit_contract(fragments, {"bright": sides[0]}, depth=DEPTH, tile=TILE)
    args = fragment.label, fragment.papyrus, fragment.supervised
    tables = [grid_table("bright", side, *args, tile=TILE, stride=TILE // 2) for side in sides]
    left, right = (TileDataset(fragments, table, contract) for table in tables)
    return left, right


def small_model(depth: int = DEPTH, classes: int = 1, width: int = 4) -> InkModel:
    torch.manual_seed(0)
    return create_model("depthcnn_tiny", depth=depth, tile=TILE, classes=classes, width=width)


def config(**fields: Any) -> TrainConfig:
    return load_train_config(
        **{"loss": "bce", "steps": 8, "batch_size": 4, "precision": "fp32", "log_every": 2, **fields}
    )


def run(halves, out: Path, **fields: Any) -> TrainReport:
    left, right = halves
    settings = config(**fields)
    kept = right if settings.validate_every else None
    return train(small_model(), left, settings, device="cpu", out=out, validation=kept, options={"width": 4})


def test_validation_counts_every_tile_once_and_leaves_the_model_training(halves) -> None:
    _, right = halves
    model = small_model().train()
    score = validate(Fabric(accelerator="cpu", devices=1), model, right, config(batch_size=4), 3, Event())
    assert model.training
    histogram = InkHistogram()
    with torch.no_grad():
        for row in range(len(right)):
            item = right[row]
            prob = model.eval()(item["volume"][None]).sigmoid()[0, 0].numpy()
            histogram.add(prob, item["label"][0].numpy(), item["mask"][0].numpy())
    assert score.ap == pytest.approx(histogram.ap(), abs=1e-3)
    assert score.tiles.shape == (4, 3, TILE, TILE)


def test_the_best_weights_are_kept_and_a_run_that_no_longer_improves_stops(
    halves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.5, 0.4, 0.9])
    kept: list[float] = []

    def scripted(fabric, model: nn.Module, *_: Any) -> Validation:
        kept.append(float(next(model.parameters()).detach().sum()))
        return Validation(next(scores), 0.5, torch.zeros(1, 3, 8, 8))

    monkeypatch.setattr(loop, "validate", scripted)
    report = run(halves, tmp_path, steps=100, validate_every=2, patience=2)
    assert report.steps == 8, "two validations in a row without a better one"
    assert report.best_ap == 0.6
    best = load_checkpoint(tmp_path / "best.safetensors").model
    assert float(next(best.parameters()).detach().sum()) == pytest.approx(kept[1], abs=1e-6)
    assert [line["validation_ap"] for line in read_log(tmp_path / "log.jsonl") if "validation_ap" in line] == [
        0.2,
        0.6,
        0.5,
        0.4,
    ]


def test_validation_without_tiles_left_out_is_refused(halves, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validate_every=2, but no tiles are left out"):
        train(small_model(), halves[0], config(validate_every=2), device="cpu", out=tmp_path)
    with pytest.raises(ValueError, match="patience=3 counts validations"):
        config(patience=3)


def test_tiles_without_ink_to_validate_on_are_refused_before_the_first_step(halves, tmp_path: Path) -> None:
    left, right = halves
    ink = [bool(((item := right[row])["label"].bool() & item["mask"]).any()) for row in range(len(right))]
    assert holds_ink(right) and not all(ink)
    bare = TileDataset({"bright": right.fragments[0]}, right.table[~np.array(ink)], right.contract)
    seen: list[Progress] = []
    with pytest.raises(ValueError, match="the tiles to validate on hold no ink"):
        train(
            small_model(),
            left,
            config(validate_every=2),
            device="cpu",
            out=tmp_path,
            validation=bare,
            on_progress=seen.append,
        )
    assert not seen and not list(tmp_path.iterdir())


def test_validation_computes_as_many_tiles_at_once_as_training_came_down_to(
    halves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, sizes = DepthCNN.heads, []

    def spy(self: DepthCNN, volume: torch.Tensor, task: torch.Tensor | None = None) -> Heads:
        if self.training and len(volume) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(volume))
        return heads(self, volume, task)

    monkeypatch.setattr(DepthCNN, "heads", spy)
    assert run(halves, tmp_path, steps=1, validate_every=1).micro_batch == 2
    assert max(sizes) == 2


def test_tensorboard_holds_the_scalars_of_the_log_and_the_tiles(halves, tmp_path: Path) -> None:
    run(halves, tmp_path, tensorboard=True, validate_every=4)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    told = [(event.step, event.value) for event in board.Scalars("loss")]
    logged = [(line["step"], line["loss"]) for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert [step for step, _ in told] == [step for step, _ in logged]
    assert [value for _, value in told] == pytest.approx([value for _, value in logged])
    (tag,) = board.Tags()["images"]
    picture = board.Images(tag)[0]
    assert (picture.height, picture.width) == (4 * TILE, 3 * TILE)


def test_a_moving_average_is_what_its_formula_says() -> None:
    settings = config(ema=0.9)
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average = make_average(model, settings)
        assert average is not None
        expected = None
        for step in range(200):
            model.weight.fill_(float(step % 7))
            update_average(average, model, settings, step / 200, (step + 1) / 200)
            keep = min(0.9, (1 + step) / (10 + step))  # the start is forgotten
            expected = float(step) if expected is None else keep * expected + (1 - keep) * (step % 7)
    assert float(averaged_weights(average, model)["weight"]) == pytest.approx(expected)


def test_the_last_sets_of_weights_weigh_alike() -> None:
    settings = config(average_last=3)
    model = nn.Linear(1, 1, bias=False)
    average = make_average(model, settings)
    assert average is not None
    assert float(averaged_weights(average, model)["weight"]) == model.weight.item(), "the model's own before the first"
    with torch.no_grad():
        for step in range(200):
            model.weight.fill_(float(step))
            update_average(average, model, settings, step / 200, (step + 1) / 200)
    assert int(average.n_averaged) == 3
    assert float(averaged_weights(average, model)["weight"]) == pytest.approx((195 + 197 + 199) / 3)


def test_a_count_of_batches_is_the_last_one_and_no_mean() -> None:
    settings = config(average_last=3)
    model = nn.BatchNorm2d(1)
    average = make_average(model, settings)
    assert average is not None
    for step in range(200):
        model.num_batches_tracked.fill_(step)  # pyright: ignore
        update_average(average, model, settings, step / 200, (step + 1) / 200)
    assert int(averaged_weights(average, model)["num_batches_tracked"]) == 199


def test_validation_before_the_first_set_of_weights_scores_the_model_that_is_trained(
    halves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scored = small_model(), []

    def scripted(fabric, given: nn.Module, *_: Any) -> Validation:
        scored.append(given is model)
        return Validation(0.5, 0.5, torch.zeros(1, 3, 8, 8))

    monkeypatch.setattr(loop, "validate", scripted)
    settings = config(average_last=2, validate_every=4)
    train(model, halves[0], settings, device="cpu", out=tmp_path, validation=halves[1])
    assert scored == [True, False], "the average holds the weights that the run began with until 99 % of the budget"


def test_what_is_kept_are_the_averaged_weights(halves, tmp_path: Path) -> None:
    model = small_model()
    train(model, halves[0], config(ema=0.5), device="cpu", out=tmp_path, options={"width": 4})
    kept = load_checkpoint(tmp_path / "last.safetensors").model
    pairs = list(zip(kept.parameters(), model.parameters(), strict=True))
    assert any(not torch.equal(average, last) for average, last in pairs)
    assert all((average - last).abs().max() < 0.1 for average, last in pairs)


def test_weights_that_fit_are_carried_over_and_the_others_named(halves, tmp_path: Path) -> None:
    run(halves, tmp_path, steps=2)
    kept = load_checkpoint(tmp_path / "last.safetensors").model.state_dict()
    said: list[str] = []
    other = small_model(depth=6, classes=3)
    before = copy.deepcopy(other.state_dict())
    start_from(other, tmp_path / "last.safetensors", said.append)
    changed = [key for key, value in other.state_dict().items() if not torch.equal(value, before[key])]
    assert changed and all(torch.equal(other.state_dict()[key], kept[key]) for key in changed)
    named = [key for key, value in other.state_dict().items() if value.shape != kept[key].shape]
    assert named and all(key in " ".join(said) for key in named)
    with pytest.raises(ValueError, match="not one weight of depthcnn_tiny fits zmean"):
        start_from(create_model("zmean", depth=4, tile=TILE), tmp_path / "last.safetensors", said.append)


def test_steps_of_the_learning_rate_and_its_layers(halves, tmp_path: Path) -> None:
    shares = [schedule(share, 0.1, "step") for share in (0.1, 0.5, 0.7, 0.97)]
    assert shares == pytest.approx([1, 1, 0.1, 0.01])

    model = small_model()
    names = [name for name, _ in model.named_parameters()]
    frozen = names[0]
    model.learning_rate_scales = lambda decay: {frozen: 0.0}
    before = copy.deepcopy(model.state_dict())
    train(model, halves[0], config(layer_decay=0.5), device="cpu", out=tmp_path, options={"width": 4})
    after = model.state_dict()
    assert torch.equal(before[frozen], after[frozen])
    assert not torch.equal(before[names[1]], after[names[1]])


def test_a_run_whose_processes_see_different_folders_is_refused(halves, tmp_path: Path, monkeypatch) -> None:
    for found, same in (([0, 0], True), ([0, 3], False)):
        fabric: Any = SimpleNamespace(world_size=2, device="cpu", all_gather=lambda _, found=found: torch.tensor(found))
        assert same_everywhere(fabric, 0) is same
    monkeypatch.setattr(loop, "same_everywhere", lambda *_: False)
    with pytest.raises(ValueError, match="the processes do not see one --out: only some of them find a state in"):
        run(halves, tmp_path)


def test_what_fsdp_cannot_do_is_refused(halves, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="and there is one: start with torchrun, or take ddp"):
        train(small_model(), halves[0], config(), device="cpu", out=tmp_path, parallel="fsdp")
    monkeypatch.setattr("zoo.train.engine.world_size", lambda: 2)
    with pytest.raises(ValueError, match="fsdp computes in bf16 or fp32, not in fp16"):
        check_sharded(config(), "fp16")
    with pytest.raises(ValueError, match="ema and average_last need the whole weights"):
        check_sharded(config(ema=0.9), "fp32")


def test_fp16_without_a_gpu_is_refused(halves, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU, and this is cpu; use auto, bf16 or fp32"):
        run(halves, tmp_path, precision="fp16")


def test_a_compiled_model_trains_and_is_kept_as_any_other(halves, tmp_path: Path, monkeypatch) -> None:
    plain = run(halves, tmp_path / "plain", steps=2)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    compiled = run(halves, tmp_path / "compiled", steps=2, compile=True)
    assert compiled.losses["loss"] == pytest.approx(plain.losses["loss"], abs=1e-4)
    assert load_checkpoint(tmp_path / "compiled/last.safetensors").name == "depthcnn_tiny"


def test_a_profile_says_what_a_step_goes_to(halves, tmp_path: Path) -> None:
    report = train(small_model(), halves[0], config(), device="cpu", out=tmp_path, profile=True)
    assert {"waiting for data", "forward", "loss and backward", "optimizer"} <= set(report.laps)
    assert 0 < sum(report.laps.values()) < report.seconds
    assert laps_table(report.laps).row_count == len(report.laps) + 1
    quiet = Laps(torch.device("cpu"), enabled=False)
    quiet.begin()
    quiet.lap("forward")
    assert quiet.per_step() == {}


def test_weight_decay_leaves_gates_positions_and_tokens_alone() -> None:
    for name, exempt in (("repmode_tiny", "gate.weight"), ("sam_tiny", "pos_embed")):
        model = create_model(name, depth=4, tile=32)
        free = {
            id(p)
            for group in make_optimizer(model, config(), torch.device("cpu"), "fp32").param_groups
            if group["weight_decay"] == 0
            for p in group["params"]
        }
        named = {key: id(p) for key, p in model.named_parameters() if p.requires_grad}
        assert any(exempt in key for key in named)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert (id(parameter) in free) == (parameter.ndim <= 1 or key in model.no_weight_decay()), key
        assert all(named[key] in free for key in named if exempt in key)


def test_a_run_with_lora_leaves_its_adapter_beside_the_checkpoint(halves, tmp_path: Path) -> None:
    model = small(tile=TILE, depth=DEPTH)
    model.tune("lora", rank=2)
    train(model, halves[0], config(steps=2, loss="bce"), device="cpu", out=tmp_path)
    other = small(tile=TILE, depth=DEPTH)
    other.tune("lora", rank=2)
    load_adapter(tmp_path / "adapter-last.safetensors", other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    train(small_model(), halves[0], config(steps=1), device="cpu", out=tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("adapter*"))
