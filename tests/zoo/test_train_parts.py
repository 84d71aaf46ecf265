"""What a training is made of: batches, rates, decay, settings, precision, curves and lines of progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from data_recipes.cli import duration
from zoo import create_model, list_models, model_card
from zoo.device import resolve_device, resolve_precision
from zoo.train.batches import Batches, step_seed
from zoo.train.config import TrainConfig, load_train_config, merge_settings, read_settings
from zoo.train.engine import training_precision
from zoo.train.log import RunLog, curve
from zoo.train.optim import make_optimizer, schedule
from zoo.train.progress import Progress, show_progress


@pytest.mark.parametrize("rows", [3, 7, 10])
def test_batches_are_permutations_one_after_another_from_any_start(rows: int) -> None:
    stream = iter(Batches(rows, 4, seed=5))
    batches = [next(stream) for _ in range(2 * rows)]
    flat = [row for batch in batches for row in batch]
    for epoch in range(8):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    later = iter(Batches(rows, 4, seed=5, first=3))
    assert [next(later) for _ in range(3)] == batches[3:6]
    assert flat != [row for _, batch in zip(range(2 * rows), Batches(rows, 4, seed=6), strict=False) for row in batch]


def test_every_step_of_every_seed_has_its_own_draws() -> None:
    seeds = {step_seed(seed, step, s) for seed in range(20) for step in range(200) for s in ("model", "augment")}
    assert len(seeds) == 8000


def test_the_rate_rises_then_falls_to_zero() -> None:
    assert schedule(0.0, 0.1) == pytest.approx(0.04)
    assert schedule(0.1, 0.1) == 1.0
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(1.0, 0.1) == pytest.approx(0, abs=1e-12)
    assert schedule(0.0, 0.0) == 1.0


def test_biases_and_norms_do_not_decay() -> None:
    model = create_model("depthcnn_tiny", depth=4, tile=32)
    settings = load_train_config(steps=1, weight_decay=0.3)
    decayed, free = make_optimizer(model, settings, torch.device("cpu"), "fp32").param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.ndim == 1 for parameter in free["params"])
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def test_the_curve_is_thinned_to_means_that_cover_the_whole_log(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in range(1, 1002):
            log.write(step, {"loss": float(step - 1)})
            if step % 100 == 0:
                log.write(step, {"validation_ap": 0.5})
    points = curve(tmp_path / "log.jsonl")
    assert len(points) == 200
    assert points[-1][0] == 1001
    assert points[0] == (5, 2.0)
    assert curve(tmp_path / "log.jsonl", points=5000)[:2] == [(1, 0.0), (2, 1.0)]


def test_a_configuration_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("minutes: 5\nlr: 0.002\nloss: {bce: 1, dice: 2}\naugment: {cutout: 0}\n")
    mine = load_train_config(path, lr=0.1)
    assert (mine.minutes, mine.steps, mine.lr, mine.loss) == (5, None, 0.1, {"bce": 1, "dice": 2})
    assert load_train_config(path, steps=7).minutes is None
    assert read_settings(path) == {
        "minutes": 5,
        "steps": None,
        "lr": 0.002,
        "loss": {"bce": 1, "dice": 2},
        "augment": {"cutout": 0},
    }
    assert load_train_config().steps == 1000
    assert TrainConfig.model_validate({"minutes": 2}).steps is None
    with pytest.raises(ValueError, match="exactly one of them; got steps=3 and minutes=1"):
        load_train_config(steps=3, minutes=1)
    with pytest.raises(ValueError, match="got tiles_seen=9 and flops=1000000"):
        load_train_config(path, tiles_seen=9, flops=1e6)
    with pytest.raises(ValueError, match="got none of them"):
        TrainConfig(steps=None)
    assert load_train_config(tiles_seen=36000).budget == "36,000 tiles"
    assert load_train_config(path).budget == "5 minutes"
    assert TrainConfig.model_validate({"flops": 1e15}).budget == "1e+15 FLOPs"
    path.write_text("learning_rate: 1")
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key 'learning_rate'; nearest is .*allowed: loss, "):
        load_train_config(path)
    path.write_text("- 1")
    with pytest.raises(ValueError, match="expected lines of `key: value`, got list"):
        load_train_config(path)
    with pytest.raises(ValueError, match=r"augment\.gain"):
        load_train_config(augment={"gain": 7})
    assert mine == TrainConfig.model_validate(json.loads(mine.model_dump_json()))


def test_a_budget_is_one_setting_with_several_names() -> None:
    suite, family, command = {"steps": 900, "lr": 1e-3, "clip_norm": None}, {"lr": 2e-3}, {"minutes": 5}
    assert merge_settings(suite, family) == {"steps": 900, "lr": 2e-3, "clip_norm": None}
    assert merge_settings(suite, family, command) == {"minutes": 5, "lr": 2e-3, "clip_norm": None}
    assert merge_settings(command, suite)["steps"] == 900
    assert merge_settings(suite, {"tiles_seen": 9}, {"flops": 1e9}) == {"lr": 1e-3, "clip_norm": None, "flops": 1e9}
    assert merge_settings(suite, {"steps": None, "minutes": None}) == suite
    assert merge_settings({"steps": 3, "minutes": 5}) == {"steps": 3, "minutes": 5}  # for TrainConfig to refuse
    assert suite == {"steps": 900, "lr": 1e-3, "clip_norm": None}


def test_devices_and_precision_are_resolved() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "tpu", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}'"):
            resolve_device(name)
    assert resolve_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(
    ("kernel", "padding", "safe"),
    [(3, 1, False), ((3, 1, 1), "same", False), (3, (0, 1, 1), True), (1, 0, True), ((1, 3, 3), "same", True)],
)
def test_convolutions_whose_bf16_gradients_may_be_wrong_are_trained_in_fp32(kernel, padding, safe) -> None:
    model, cpu = nn.Sequential(nn.ReLU(), nn.Conv3d(1, 1, kernel, padding=padding)), torch.device("cpu")
    if safe:
        assert training_precision("bf16", model, cpu) == "bf16"
    else:
        with pytest.warns(UserWarning, match="trained in fp32, not bf16: 1 is an nn.Conv3d that pads Z"):
            assert training_precision("bf16", model, cpu) == "fp32"
    assert training_precision("fp32", model, cpu) == "fp32"
    assert training_precision("bf16", model, torch.device("cuda")) == "bf16"


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_our_own_code_can_be_trained_in_bf16(name: str) -> None:
    card = model_card(name)
    if card.family == "monai":
        pytest.skip("a library's own 3D convolutions: in fp32 on a CPU, and announced")
    with torch.device("meta"):
        model = create_model(name, depth=card.depth, tile=card.tile)
    assert training_precision("bf16", model, torch.device("cpu")) == "bf16"


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("sam_tiny") as update:
        for step in range(1, 101):
            update(Progress(step, step / 100, 0.5, 2.0, step / 2, 50 - step / 2))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sam_tiny: step 1 (1%)  loss 0.5000  2.00 steps/s  50 s left",
        "sam_tiny: step 100 (100%)  loss 0.5000  2.00 steps/s  0 s left",
    ]
    assert [duration(s) for s in (7, 200, 7500)] == ["7 s", "3 min 20 s", "2 h 05 min"]
