"""A checkpoint holds all that is needed, is written whole or not at all, and nothing else is taken for one."""

from __future__ import annotations

import errno
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_recipes.tiles import InputContract
from zoo import checkpoint, create_model, model_card
from zoo.checkpoint import load_checkpoint, read_info, save_checkpoint
from zoo.device import to_channels_last
from zoo.models.base import InkModel
from zoo.models.depthcnn import DepthCNN

CONTRACT = InputContract(stored_dtype="uint8", depth=5, tile=32, clip=(0, 220), mean=0.4, std=0.2, direction="reverse")
OPTIONS = {"width": 2}
CONFIG = {"train": {"lr": 0.001, "steps": 3}, "fold": None}


@pytest.fixture
def model() -> InkModel:
    torch.manual_seed(1)
    return create_model("depthcnn_tiny", depth=5, tile=32, classes=3, **OPTIONS)


def save(path: Path, model: InkModel) -> Path:
    return save_checkpoint(path, model, name="depthcnn_tiny", options=OPTIONS, contract=CONTRACT, config=CONFIG)


def test_what_goes_in_comes_out(tmp_path: Path, model: InkModel) -> None:
    path = save(tmp_path / "new" / "last.safetensors", model)
    loaded = load_checkpoint(path)
    assert (loaded.name, loaded.options, loaded.contract, loaded.config) == ("depthcnn_tiny", OPTIONS, CONTRACT, CONFIG)
    assert loaded.info["card"]["family"] == "depthcnn"
    assert loaded.info["versions"]["torch"] == torch.__version__
    assert not loaded.model.training
    volume = torch.randn(2, 1, 5, 32, 32)
    torch.testing.assert_close(loaded.model(volume), model.eval()(volume), rtol=0, atol=0)


def build_pretrained(*, depth: int, tile: int, classes: int = 1, width: int = 4, start: str | None = None) -> InkModel:
    """A tiny stand-in for a model that starts from a file of weights."""
    card = replace(model_card("depthcnn_tiny"), name="pretrained", init_options=("start",))
    model = DepthCNN(card, depth=depth, tile=tile, classes=classes, width=width)
    if start is not None:
        model.load_state_dict(load_file(start))
    return model


def test_the_file_that_training_started_from_need_not_be_there_any_more(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_file(build_pretrained(depth=5, tile=32, width=2).state_dict(), start)
    options = {"width": 2, "start": str(start)}
    name = f"{__name__}:build_pretrained"
    trained = create_model(name, depth=5, tile=32, **options)
    path = save_checkpoint(
        tmp_path / "last.safetensors", trained, name=name, options=options, contract=CONTRACT, config=CONFIG
    )
    start.unlink()
    loaded = load_checkpoint(path)
    assert loaded.options == options
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


def test_weights_in_another_memory_layout_and_shared_ones_are_kept(tmp_path: Path, model: InkModel) -> None:
    to_channels_last(model)
    model.register_parameter("again", next(model.parameters()))
    path = tmp_path / "last.safetensors"
    save(path, model)
    assert read_info(path)["classes"] == 3


def test_only_what_safetensors_does_not_take_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, shared = torch.arange(6.0), torch.arange(8.0)
    turned = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    tensors = {"plain": plain, "one": shared[:4], "two": shared[4:], "turned": turned, "none": torch.empty(0)}
    written, save = {}, checkpoint.save_file

    def watched(given: dict[str, torch.Tensor], *more: Any) -> None:
        written.update(given)
        save(given, *more)

    monkeypatch.setattr(checkpoint, "save_file", watched)
    checkpoint.write_tensors(tmp_path / "all.safetensors", tensors, {})
    assert [written[key].data_ptr() == tensors[key].data_ptr() for key in tensors if key != "none"] == [
        True,
        True,
        False,
        False,
    ]
    for key, tensor in load_file(tmp_path / "all.safetensors").items():
        assert torch.equal(tensor, tensors[key]), key


def test_only_the_checkpoint_is_left_beside_it(tmp_path: Path, model: InkModel) -> None:
    save(tmp_path / "last.safetensors", model)
    save(tmp_path / "last.safetensors", model)
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_full_disk_leaves_the_earlier_one(tmp_path: Path, model: InkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "last.safetensors", model)
    before = path.read_bytes()

    def no_space(_tensors: object, partial: Path, _metadata: object) -> None:
        Path(partial).write_bytes(before[:100])
        raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        save(path, model)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, model: InkModel, kept: int) -> None:
    path = save(tmp_path / "last.safetensors", model)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"last\.safetensors: truncated"):
        load_checkpoint(path)


def test_another_projects_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="not a checkpoint of this project"):
        load_checkpoint(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="can run code"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_and_a_newer_version_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    facts = {"format": checkpoint.FORMAT, "version": 99, "versions": {"inkzoo": "9.0"}}
    save_file({"w": torch.zeros(1)}, tmp_path / "new.safetensors", {"inkzoo": json.dumps(facts)})
    with pytest.raises(ValueError, match=r"version 99.*9\.0"):
        read_info(tmp_path / "new.safetensors")


def test_weights_that_no_longer_fit_are_named(tmp_path: Path, model: InkModel) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, model, name="depthcnn_tiny", options={"width": 3}, contract=CONTRACT, config={})
    with pytest.raises(ValueError, match="do not fit depthcnn_tiny"):
        load_checkpoint(path)
