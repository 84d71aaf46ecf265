"""A run that starts from another's weights says what they have seen, and keeps it on record."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from data_recipes.regions import Rect
from data_recipes.split import Fold
from data_recipes.tiles import InputContract
from tests.zoo.small_sam import small
from tests.zoo.test_train_command import options, refused, write_fragment
from zoo import create_model
from zoo.checkpoint import read_info, save_checkpoint
from zoo.models.base import InkModel
from zoo.models.sam_encoder import resize_grid, resize_relative
from zoo.train.command import train_command
from zoo.train.start import contract_differences, keep_source, recall_source, seen_by, source_of, start_from

CONTRACT = InputContract(stored_dtype="uint8", depth=4, tile=32, mean=0.4, std=0.2, voxel_um=7.91)
FOLD = Fold(
    "right",
    train={"a": (Rect(0, 100, 0, 40),), "b": (Rect(0, 50, 0, 50),)},
    calibration={"b": (Rect(60, 80, 0, 50),)},
    test={"a": (Rect(0, 100, 60, 100),)},
    buffer=20,
)


def saved(path: Path, model: InkModel | None = None, /, **config: Any) -> Path:
    model = model or create_model("depthcnn_tiny", depth=4, tile=32)
    return save_checkpoint(path, model, name="depthcnn_tiny", options={}, contract=CONTRACT, config=config)


def test_weights_that_saw_what_is_left_out_are_told_and_recorded(tmp_path: Path) -> None:
    rects, train = {"a": [[0, 50, 0, 70]], "b": [[0, 61, 0, 50]]}, {"steps": 7, "batch_size": 4}
    path = saved(tmp_path / "other.safetensors", train_rects=rects, train=train)
    said: list[str] = []
    record = source_of(path, FOLD, CONTRACT, said.append)
    assert record["trained"] == "7 steps of 4 tiles"
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["path"], record["name"]) == (str(path), "depthcnn_tiny")
    assert record["held_out_px_seen"] == 50 * 10 + 1 * 50
    assert record["seen"] == {"a": [[0, 50, 0, 70]], "b": [[0, 61, 0, 50]]}
    (line,) = said
    assert line.startswith(f"leak: {path} was trained on 550 px of what this run leaves out (in a, b)")


def test_weights_of_the_same_fold_have_seen_nothing_of_it(tmp_path: Path) -> None:
    said: list[str] = []
    of_the_bench: dict[str, Any] = {"run": {"train_rects": FOLD.as_dict()["train"]}}
    for path in (
        saved(tmp_path / "x.safetensors", fold=FOLD.as_dict()),
        saved(tmp_path / "y.safetensors", **of_the_bench),
    ):
        record = source_of(path, FOLD, CONTRACT, said.append)
        assert record["held_out_px_seen"] == 0
        assert record["seen"] == {"a": [[0, 100, 0, 40]], "b": [[0, 50, 0, 50]]}
    assert not said


def test_what_an_earlier_one_saw_counts_too_and_a_pixel_counts_once(tmp_path: Path) -> None:
    before = {"seen": {"a": [[0, 10, 60, 70], [0, 10, 60, 65]], "c": [[0, 9, 0, 9]]}}
    path = saved(tmp_path / "x.safetensors", train_rects={"a": [[0, 10, 0, 62]]}, started_from=before)
    record = source_of(path, FOLD, CONTRACT)
    assert record["held_out_px_seen"] == 100
    assert record["seen"]["c"] == [[0, 9, 0, 9]]


def test_weights_that_do_not_say_where_they_were_trained_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    record = source_of(saved(tmp_path / "x.safetensors"), FOLD, CONTRACT, said.append)
    assert record["seen"] is record["held_out_px_seen"] is None
    assert "whether it has seen what is left out here is not known" in said[0]
    assert seen_by({"train_rects": {}, "started_from": {"seen": None}}) is None
    assert source_of(saved(tmp_path / "x.safetensors"), None, CONTRACT, pytest.fail)["held_out_px_seen"] == 0


def test_what_differs_in_the_input_is_named(tmp_path: Path) -> None:
    changed = {"direction": "reverse", "offset": 3, "clip": (0.0, 200.0), "divisor": 200.0, "voxel_um": 3.24}
    now = CONTRACT.model_copy(update={**changed, "depth": 6, "mean": 0.1, "tile": 64})
    differs = contract_differences(CONTRACT, now)
    assert sorted(line.split()[0] for line in differs) == sorted([*changed, "depth"])
    assert "direction was 'forward', is 'reverse'" in differs
    assert contract_differences(CONTRACT, CONTRACT.model_copy(update={"voxel_um": None, "std": 9.0})) == []
    said: list[str] = []
    assert source_of(saved(tmp_path / "x.safetensors"), None, now, said.append)["input_differs"] == differs
    assert said == [f"the input is not that of {tmp_path / 'x.safetensors'}: {'; '.join(differs)}"]


def test_positions_of_sam_are_resized_to_another_tile(tmp_path: Path) -> None:
    source, target, said = small(tile=64, seed=1), small(tile=96, seed=2), []
    start_from(target, saved(tmp_path / "sam.safetensors", source), said.append)
    was, now = source.state_dict(), target.state_dict()
    grid, relative = "image_encoder.pos_embed", "image_encoder.blocks.1.attn.rel_pos_h"
    assert was[grid].shape != now[grid].shape and was[relative].shape != now[relative].shape
    torch.testing.assert_close(now[grid], resize_grid(was[grid], 6, 6))
    torch.testing.assert_close(now[relative], resize_relative(was[relative], len(now[relative])))
    same = [key for key in was if was[key].shape == now[key].shape]
    assert all(torch.equal(was[key], now[key]) for key in same)
    assert len(same) + 3 == len(was)
    assert f"{len(was)} of {len(was)} tensors carried over" in said[0]
    assert said[1].startswith("  resized: ") and len(said) == 2


def test_lora_factors_are_new_and_keep_the_whole_learning_rate() -> None:
    model = small()
    model.tune("lora", rank=2)
    scales = model.learning_rate_scales(0.5)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lora" in name for name in trained)
    assert all(name not in scales for name in trained)


def test_a_run_that_goes_on_keeps_what_it_started_from(tmp_path: Path) -> None:
    said: list[str] = []
    assert recall_source(tmp_path, pytest.fail) is None
    record = source_of(saved(tmp_path / "x.safetensors"), FOLD, CONTRACT)
    keep_source(record, tmp_path)
    assert recall_source(tmp_path, pytest.fail) == record
    (tmp_path / "started_from.json").write_text('{"path": ')
    assert recall_source(tmp_path, said.append) is None
    assert "started_from.json: damaged" in said[0]
    keep_source(None, tmp_path)
    assert not (tmp_path / "started_from.json").exists()


def test_the_command_records_it_and_a_resumed_run_does_not_forget(tmp_path: Path, capsys) -> None:
    scrap, first, out = write_fragment(tmp_path / "scrap"), tmp_path / "first", tmp_path / "out"
    assert train_command(options(scrap, out=first)) == 0
    assert "starts from random weights" in capsys.readouterr().err
    source = first / "last.safetensors"
    kept = read_info(source)["config"]
    assert (kept["started_from"], kept["weights"]) == (None, "random")
    assert kept["train_rects"] == {"scrap": [[0, 128, 0, 128]]}

    given = {"out": out, "fold": 0, "buffer": 8, "tile": 16, "recipe": "random", "samples": 8}
    assert train_command(options(scrap, start_from=source, **given)) == 0
    told = capsys.readouterr().err
    assert f"starts from {source}" in told
    assert f"leak: {source} was trained on " in told
    record = read_info(out / "last.safetensors")["config"]["started_from"]
    assert record["path"] == str(source) and record["held_out_px_seen"] > 0
    assert record["seen"] == {"scrap": [[0, 128, 0, 128]]}

    (out / "finished.json").unlink()
    (out / "last.safetensors").unlink()
    assert train_command(options(scrap, resume=True, **given)) == 0  # stopped before it kept anything: starts once more
    assert read_info(out / "last.safetensors")["config"]["started_from"] == record
    finished = {"out": out, "resume": True, **given}
    assert train_command(options(scrap, start_from=source, **finished)) == 0  # the very command, once more
    again = "holds a run that started from"
    assert again in refused(options(scrap, start_from=out / "last.safetensors", **finished), capsys)
    begun = f"{first} {again} random weights, not from --start-from {source}"
    assert begun in refused(options(scrap, out=first, resume=True, start_from=source), capsys)

    (out / "finished.json").unlink()
    (out / "state").mkdir()
    (out / "state" / "step-000000001.safetensors").write_bytes(b"cut off")
    (out / "last.safetensors").unlink()
    assert train_command(options(scrap, **finished)) == 0  # no state is whole: it starts once more, and from the same
    assert "tensors carried over" in capsys.readouterr().err
    assert read_info(out / "last.safetensors")["config"]["started_from"] == record

    (out / "finished.json").unlink()
    source.write_bytes((out / "last.safetensors").read_bytes())
    assert f"{source} has changed since {out} started from it" in refused(options(scrap, **finished), capsys)
    missing = tmp_path / "nowhere.safetensors"
    assert "no such checkpoint" in refused(options(scrap, out=tmp_path / "new", start_from=missing), capsys)
