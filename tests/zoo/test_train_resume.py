"""A run that was stopped, in whatever way, goes on to the weights of the run that never was."""

from __future__ import annotations

import errno
import gc
import os
import time
import weakref
from pathlib import Path
from signal import SIGINT, raise_signal
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_recipes.fragment import open_fragments
from data_recipes.regions import Rect
from data_recipes.sampling import grid_table
from data_recipes.tiles import TileDataset, fit_contract
from tests.zoo.small_sam import small
from zoo import create_model
from zoo.models.base import Heads, InkModel
from zoo.models.depthcnn import DepthCNN
from zoo.models.sam import SamInk
from zoo.train import loop, state
from zoo.train.batches import Batches
from zoo.train.config import load_train_config
from zoo.train.interrupt import TrainingInterrupted
from zoo.train.log import read_log
from zoo.train.loop import TrainingDiverged, TrainReport, train
from zoo.train.report import check_same
from zoo.train.state import states

DEPTH, SIDE, TILE, STEPS = 4, 96, 32, 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TileDataset:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "layers").mkdir()
    rng = np.random.default_rng(0)
    ink = np.kron(rng.random((3, 3)) < 0.5, np.ones((32, 32))).astype(np.uint8)
    for number in range(DEPTH):
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", rng.integers(0, 256, (SIDE, SIDE), np.uint8))
    tifffile.imwrite(folder / f"{folder.name}_inklabels.tif", ink * 255)
    (folder / "fragment.yaml").write_text("name: noise\ncenter_layer: 2\ndirection: forward\nvoxel_um: 7.91\n")
    fragments = open_fragments([folder])
    fragment, rects = fragments["noise"], (Rect(0, SIDE, 0, SIDE),)
    contract = fit_contract(fragments, {"noise": rects}, depth=DEPTH, tile=TILE)
    args = fragment.label, fragment.papyrus, fragment.supervised
    return TileDataset(fragments, grid_table("noise", rects, *args, tile=TILE, stride=8), contract)


def run(
    dataset,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say=print,
    on_progress=None,
    sam: bool = False,
    **fields: Any,
) -> TrainReport:
    settings = {"loss": "bce", "steps": STEPS, "batch_size": 4, "precision": "fp32", "log_every": 3, **fields}
    torch.manual_seed(0)
    model = model_of()
    if sam:
        model = small(tile=TILE, depth=DEPTH, drop_path=0.5)
    config = load_train_config(**settings)
    how = {"resume": resume, "overwrite": overwrite, "say": say, "on_progress": on_progress}
    how |= {"validation": dataset} if config.validate_every else {}
    return train(model, dataset, config, device="cpu", out=out, options={"width": 4}, **how)


def model_of() -> InkModel:
    return create_model("depthcnn_tiny", depth=DEPTH, tile=TILE, width=4)


def weights(out: Path, file: str = "last.safetensors") -> dict[str, Tensor]:
    return load_file(out / file)


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.fixture
def stop_in_step(monkeypatch: pytest.MonkeyPatch):
    """A function: from then on the forward pass of step n (from 1) fails as told, once."""

    def arm(step: int, error: Exception | float) -> None:
        calls = [0]

        def arm_family(family: type[InkModel]) -> None:
            heads = family.heads

            def failing(self: InkModel, volume: Tensor, task: Tensor | None = None) -> Heads:
                answer = heads(self, volume, task)
                calls[0] += self.training
                if calls[0] == step and self.training:
                    if isinstance(error, Exception):
                        raise error
                    answer.logits[0] = answer.logits[0] * error
                return answer

            monkeypatch.setattr(family, "heads", failing)

        for family in (DepthCNN, SamInk):
            arm_family(family)

    yield arm
    monkeypatch.undo()


class Killed(Exception):
    """Stands for a process that is gone in the middle of a step."""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ema": 0.9},
        {"average_last": 3},
        {"micro_batch": 2, "schedule": "step"},
        {"layer_decay": 0.5, "log_every": 5},
        {"steps": None, "tiles_seen": 46},
        {"steps": None, "flops": 3.2e8},
        {"augment": "ink", "validate_every": 2, "patience": 3},
        {"num_workers": 1},
        {"sam": True},
    ],
    ids=[
        "plain",
        "ema",
        "average_last",
        "micro_batch",
        "layer_decay",
        "tiles_seen",
        "flops",
        "augment and validation",
        "workers",
        "drop path",
    ],
)
def test_a_run_that_was_killed_ends_with_the_weights_and_the_log_of_one_that_was_not(
    dataset: TileDataset, tmp_path: Path, stop_in_step, fields: dict[str, Any]
) -> None:
    run(dataset, tmp_path / "whole", **fields)
    stop_in_step(8 * 4 // fields.get("micro_batch", 4), Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path / "cut", checkpoint_steps=3, **fields)
    assert [path.stem for path in states(tmp_path / "cut/state")] == ["step-000000006", "step-000000003"]
    run(dataset, tmp_path / "cut", resume=True, checkpoint_steps=3, **fields)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    logs = [
        [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(out / "log.jsonl")]
        for out in (tmp_path / "cut", tmp_path / "whole")
    ]
    assert logs[0] == logs[1]
    if "validate_every" in fields:
        assert_equal(*(weights(tmp_path / out, "best.safetensors") for out in ("cut", "whole")))
    assert not (tmp_path / "cut/state").exists(), "an ended run keeps no state"


def test_a_loss_that_is_not_finite_leaves_the_weights_from_before_and_can_be_gone_on_from(
    dataset: TileDataset, tmp_path: Path, stop_in_step
) -> None:
    run(dataset, tmp_path / "whole")
    stop_in_step(5, float("nan"))
    said = r"in step 5; its tiles: noise \d+,\d+.*from before it are in .*last.safetensors: .* with a lower --lr$"
    with pytest.raises(TrainingDiverged, match=said):
        run(dataset, tmp_path / "cut")
    assert all(value.isfinite().all() for value in weights(tmp_path / "cut").values())
    run(dataset, tmp_path / "cut", resume=True)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_names_the_tiles_of_every_process(
    dataset: TileDataset, tmp_path: Path, stop_in_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(3, float("nan"))
    make = loop.make_loader
    monkeypatch.setattr(loop, "make_loader", lambda *given, **how: make(*given, **{**how, "rank": 1, "processes": 2}))
    monkeypatch.setattr(loop, "augment", lambda batch, *_, **__: batch)
    with pytest.raises(TrainingDiverged) as caught:
        run(dataset, tmp_path)
    rows = dataset.table[np.array(next(iter(Batches(len(dataset), 4, seed=0, first=2))))]
    tiles = "; ".join(f"noise {y},{x}" for y, x in zip(rows.y, rows.x, strict=True))
    assert f"in step 3; its tiles: {tiles}; " in str(caught.value)


def test_out_of_memory_halves_the_batch_at_once_and_keeps_that_of_the_step(
    dataset: TileDataset, tmp_path: Path, stop_in_step
) -> None:
    said: list[str] = []
    stop_in_step(3, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    report = run(dataset, tmp_path, say=said.append)
    assert report.micro_batch == 2
    assert report.samples == STEPS * 4
    assert said == ["out of memory in step 3: going on with 2 tiles at once, 4 a step as before"]


def test_a_resumed_run_takes_a_smaller_micro_batch_than_before_and_never_a_larger_one(
    dataset: TileDataset, tmp_path: Path, stop_in_step
) -> None:
    stop_in_step(5, Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path, checkpoint_steps=3)
    said: list[str] = []
    assert run(dataset, tmp_path, resume=True, micro_batch=2, say=said.append).micro_batch == 2
    assert said == ["going on after step 3, from step-000000003.safetensors"]
    stop_in_step(5, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(TrainingInterrupted):
        run(dataset, tmp_path, overwrite=True, on_progress=lambda now: now.step == 6 and raise_signal(SIGINT))
    assert run(dataset, tmp_path, resume=True, say=said.append).micro_batch == 2
    assert said[2] == "2 tiles at once, as the run had come down to, not 4"


def test_a_state_that_is_damaged_is_named_and_the_one_before_it_used(
    dataset: TileDataset, tmp_path: Path, stop_in_step
):
    run(dataset, tmp_path / "whole")
    stop_in_step(8, Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path / "cut", checkpoint_steps=3)
    newest = states(tmp_path / "cut/state")[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    run(dataset, tmp_path / "cut", resume=True, say=said.append)
    assert len(said) == 2 and "step-000000006.safetensors: truncated or damaged" in said[0]
    assert said[1] == "going on after step 3, from step-000000003.safetensors"
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_foreign_file_is_no_state(dataset: TileDataset, tmp_path: Path) -> None:
    run(dataset, tmp_path / "other", steps=1)
    (tmp_path / "out/state").mkdir(parents=True)
    (tmp_path / "other/last.safetensors").rename(tmp_path / "out/state/step-000000001.safetensors")
    said: list[str] = []
    assert run(dataset, tmp_path / "out", resume=True, say=said.append).steps == STEPS
    assert "not a training state" in said[0] and "starting from the beginning" in said[1]


def test_an_unfinished_run_is_neither_overwritten_nor_gone_on_with_under_other_settings(
    dataset: TileDataset, tmp_path: Path, stop_in_step
) -> None:
    stop_in_step(5, Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path, checkpoint_steps=3)
    with pytest.raises(ValueError, match=r"holds an unfinished run \(step-000000003\): --resume goes on with it"):
        run(dataset, tmp_path)
    with pytest.raises(ValueError, match=r"other settings: lr was 0\.001, is 0\.5; give those, or another --out"):
        run(dataset, tmp_path, resume=True, lr=0.5)
    assert len(states(tmp_path / "state")) == 1


def test_a_state_of_another_precision_other_tasks_or_more_processes_is_named(
    dataset: TileDataset, tmp_path: Path, stop_in_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(5, Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path, checkpoint_steps=3, precision="auto")
    (path,) = states(tmp_path / "state")
    here = loop.training_precision
    other = {"fp32": "bf16", "bf16": "fp32"}
    monkeypatch.setattr(loop, "training_precision", lambda *given: other[here(*given)])
    with pytest.raises(ValueError, match=r"other settings: computed in was '\w+', is '\w+'; give those"):
        run(dataset, tmp_path, resume=True, precision="auto")
    monkeypatch.setattr(loop, "training_precision", here)
    stop_in_step(2, Killed())  # the precision that was computed in may be asked for by name
    with pytest.raises(Killed):
        run(dataset, tmp_path, resume=True, precision=here("auto", model_of(), torch.device("cpu")))

    model, fragments = create_model("depthcnn_tiny", depth=DEPTH, tile=TILE), {"noise": dataset.fragments[0]}
    whos = [
        state.identity(
            "plain", {}, model, TileDataset(fragments, dataset.table, dataset.contract, tasks), {}, **machine
        )
        for tasks, machine in (
            ({"noise": 0}, {"precision": "fp32", "processes": 1}),
            ({"noise": 1}, {"precision": "fp32", "processes": 2}),
        )
    ]
    with pytest.raises(ValueError, match=r"tasks was {'noise': 0}, is {'noise': 1}; processes was 1, is 2; give those"):
        check_same(*whos, tmp_path)
    older = {key: value for key, value in whos[0].items() if key not in ("tasks", "processes", "computed in")}
    check_same(older, whos[1], tmp_path)  # of a version that did not write them down
    assert path.exists()


def test_starting_anew_leaves_nothing_of_the_run_before(dataset: TileDataset, tmp_path: Path) -> None:
    run(dataset, tmp_path, steps=2, tensorboard=True, validate_every=1)
    (tmp_path / "adapter-best.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    assert {"best.safetensors", "tensorboard"} < {path.name for path in tmp_path.iterdir()}
    run(dataset, tmp_path, steps=2, overwrite=True)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"last.safetensors", "finished.json", "log.jsonl", "notes.txt"}


def test_a_full_disk_leaves_the_earlier_state_whole(
    dataset: TileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = state.write_tensors, [0]

    def full(path: Path, *args: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, *args)

    run(dataset, tmp_path / "whole")
    monkeypatch.setattr(state, "write_tensors", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(dataset, tmp_path / "cut", checkpoint_steps=3)
    assert [path.stem for path in states(tmp_path / "cut/state")] == ["step-000000003"]
    monkeypatch.undo()
    run(dataset, tmp_path / "cut", resume=True)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_the_peak_is_that_of_saving_where_that_takes_most(
    dataset: TileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.save_state

    def greedy(*args: Any, **how: Any) -> Path:
        held = torch.ones(10**8)
        time.sleep(0.3)  # long enough to be seen
        del held
        return save(*args, **how)

    monkeypatch.setattr(loop, "save_state", greedy)
    assert run(dataset, tmp_path, steps=2, checkpoint_steps=1).peak_bytes > 4 * 10**8


def test_a_signal_saves_a_state_that_goes_on_to_the_same_weights(
    dataset: TileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataset, tmp_path / "whole")
    seen = loop.any_process
    monkeypatch.setattr(loop, "any_process", lambda fabric, stop, due: seen(fabric, True, due))
    with pytest.raises(TrainingInterrupted, match=r"after step 1: .*--resume goes on"):
        run(dataset, tmp_path / "cut")
    monkeypatch.undo()
    run(dataset, tmp_path / "cut", resume=True)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_run_that_has_ended_is_left_as_it_is_unless_it_is_to_start_anew(dataset: TileDataset, tmp_path: Path) -> None:
    report = run(dataset, tmp_path)
    written = (tmp_path / "last.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert run(dataset, tmp_path, resume=True, say=said.append).losses == report.losses
    assert said == [f"{tmp_path} holds this run, and it has ended; nothing is left to do"]
    with pytest.raises(ValueError, match="holds a run that has ended; give another --out, or --overwrite"):
        run(dataset, tmp_path)
    with pytest.raises(ValueError, match=r"other settings: steps was 12, is 24"):
        run(dataset, tmp_path, resume=True, steps=24)
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="--resume goes on with the run that is there, --overwrite starts anew"):
        run(dataset, tmp_path, overwrite=True, resume=True)
    assert run(dataset, tmp_path, overwrite=True, steps=2).steps == 2


def test_states_that_a_kill_at_the_very_end_left_are_removed(dataset: TileDataset, tmp_path: Path, monkeypatch) -> None:
    def killed(_: Path) -> None:
        raise Killed

    monkeypatch.setattr(loop, "drop_states", killed)
    with pytest.raises(Killed):
        run(dataset, tmp_path, checkpoint_steps=3)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run that has ended"):
        run(dataset, tmp_path)
    assert states(tmp_path / "state")
    run(dataset, tmp_path, resume=True)
    assert not (tmp_path / "state").exists()


def test_a_retry_after_running_out_of_memory_does_not_hold_the_first_attempt(
    dataset: TileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, logits, held = DepthCNN.heads, [], []

    def failing(self: DepthCNN, volume: Tensor, task: Tensor | None = None) -> Heads:
        gc.collect()
        held.append(sum(reference() is not None for reference in logits))
        answer = heads(self, volume, task)
        if len(held) == 3:

            def exhausted(_: Tensor) -> Tensor:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

            answer.logits[0].register_hook(exhausted)
        logits.append(weakref.ref(answer.logits[0]))
        return answer

    monkeypatch.setattr(DepthCNN, "heads", failing)
    assert run(dataset, tmp_path).micro_batch == 2
    assert held[3] <= held[2], "the graph of the attempt that failed is gone when the next one starts"


def test_the_log_survives_a_kill_while_a_run_is_taken_up_again(
    dataset: TileDataset, tmp_path: Path, stop_in_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(8, Killed())
    with pytest.raises(Killed):
        run(dataset, tmp_path, checkpoint_steps=3)
    before = (tmp_path / "log.jsonl").read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        run(dataset, tmp_path, resume=True)
    assert (tmp_path / "log.jsonl").read_text() == before
