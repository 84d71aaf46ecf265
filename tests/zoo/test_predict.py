"""Tiles blend to an exact map that does not depend on how the work was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from data_recipes.fragment import Fragment, open_fragment
from data_recipes.regions import Rect
from data_recipes.tiles import InputContract
from zoo import create_model
from zoo.card import ModelCard
from zoo.degrade import degrade, layer_order
from zoo.memory import OutOfMemoryError
from zoo.models.base import Heads, InkModel, ink_probability
from zoo.predict.grid import Axis
from zoo.predict.tiles import predict_region

DEPTH, HEIGHT, WIDTH, TILE = 5, 100, 149, 32
CONTRACT = InputContract(stored_dtype="uint8", depth=DEPTH, tile=TILE, mean=0.5, std=0.25)


class Fake(InkModel):
    """Answers with the middle layer, or with a constant."""

    def __init__(self, constant: float | None = None, classes: int = 1):
        super().__init__(ModelCard("fake", "fake", "for tests"), depth=DEPTH, tile=TILE, classes=classes)
        self.constant = constant
        self.batches: list[int] = []
        self.inputs: list[Tensor] = []

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        self.batches.append(len(volume))
        self.inputs.append(volume)
        middle = volume[:, :, DEPTH // 2]
        logits = middle if self.constant is None else torch.full_like(middle, self.constant)
        return Heads([logits.repeat(1, self.classes, 1, 1)])


@pytest.fixture(scope="module")
def fragment(tmp_path_factory: pytest.TempPathFactory) -> Fragment:
    return write_fragment(tmp_path_factory.mktemp("fragment"), HEIGHT, WIDTH)


def write_fragment(folder: Path, height: int, width: int) -> Fragment:
    (folder / "layers").mkdir()
    layers = np.random.default_rng(0).integers(0, 256, (DEPTH, height, width), np.uint8)
    for number, layer in enumerate(layers):
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", layer)
    (folder / "fragment.yaml").write_text(f"center_layer: {DEPTH // 2}\ndirection: forward\nvoxel_um: 7.91\n")
    return open_fragment(folder)


def middle_layer(fragment: Fragment) -> np.ndarray:
    stored = fragment.read(0, fragment.shape[0], 0, fragment.shape[1], DEPTH // 2, DEPTH // 2 + 1)[0]
    return torch.from_numpy(CONTRACT.normalise(stored)).sigmoid().numpy()


@pytest.mark.parametrize("blend", ["constant", "gaussian", "hann"])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("length", [7, 32, 33, 149])
def test_weights_sum_to_one_at_every_pixel(length: int, overlap: float, blend) -> None:
    axis = Axis.of(length, TILE, overlap, blend)
    total = np.zeros(max(length, TILE))
    for origin in axis.origins:
        total[origin : origin + TILE] += axis.weights(origin)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.origins == sorted(set(axis.origins))
    assert axis.origins[-1] == max(length - TILE, 0)


@pytest.mark.parametrize("blend", ["constant", "gaussian", "hann"])
def test_a_constant_model_gives_a_constant_map(fragment: Fragment, blend) -> None:
    found = predict_region(Fake(0.7), fragment, None, CONTRACT, precision="fp32", blend=blend)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-0.7)), atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.6])
def test_an_identity_model_gives_its_input_back(fragment: Fragment, overlap: float) -> None:
    found = predict_region(Fake(), fragment, None, CONTRACT, precision="fp32", overlap=overlap)
    np.testing.assert_allclose(found, middle_layer(fragment), atol=1e-6)


def test_a_fragment_smaller_than_a_tile_works(tmp_path: Path) -> None:
    small = write_fragment(tmp_path, 20, 40)
    found = predict_region(Fake(), small, None, CONTRACT, precision="fp32")
    np.testing.assert_allclose(found, middle_layer(small), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_region_cut_in_parts_has_the_same_bits(fragment: Fragment, precision) -> None:
    torch.manual_seed(0)
    model = create_model("depthcnn_tiny", depth=DEPTH, tile=TILE, width=4)

    def predict(*rect: int) -> np.ndarray:
        return predict_region(model, fragment, Rect(*rect), CONTRACT, precision=precision, batch_size=5)

    one = predict(0, HEIGHT, 0, WIDTH)
    upper = np.concatenate([predict(0, 41, 0, 77), predict(0, 41, 77, WIDTH)], axis=1)
    parts = np.concatenate([upper, predict(41, HEIGHT, 0, WIDTH)])
    assert one.std() > 0
    assert np.array_equal(one, parts)


def test_only_tiles_that_touch_the_region_are_computed_in_full_batches(fragment: Fragment) -> None:
    model, done = Fake(), []
    predict_region(
        model,
        fragment,
        Rect(40, 41, 70, 71),
        CONTRACT,
        batch_size=3,
        precision="fp32",
        on_progress=lambda *counts: done.append(counts),
    )
    assert done == [(3, 4), (4, 4)]
    assert model.batches == [3, 3]


def test_tiles_without_papyrus_are_skipped_and_count_as_no_ink(fragment: Fragment) -> None:
    bare = open_fragment(fragment.path)
    bare.papyrus = np.zeros((HEIGHT, WIDTH), bool)
    bare.papyrus[:, :40] = True
    model = Fake(3.0)
    found = predict_region(model, bare, None, CONTRACT, precision="fp32", batch_size=4)
    np.testing.assert_allclose(found[:, :40], 1 / (1 + np.exp(-3.0)), atol=1e-6)
    assert (found[:, 80:] == 0).all()
    assert len(model.batches) == 5  # 6 rows of 3 tiles, 4 at once


def test_the_map_is_written_where_it_is_wanted(fragment: Fragment, tmp_path: Path) -> None:
    rect = Rect(3, 60, 5, 90)
    out = np.lib.format.open_memmap(tmp_path / "map.npy", "w+", np.float32, (rect.height, rect.width))
    out[:] = 9
    assert predict_region(Fake(), fragment, rect, CONTRACT, precision="fp32", out=out) is out
    np.testing.assert_allclose(out, middle_layer(fragment)[rect.slices], atol=1e-6)
    with pytest.raises(ValueError, match="expected float32"):
        predict_region(Fake(), fragment, rect, CONTRACT, out=out[1:])


def test_several_classes_give_what_is_not_background() -> None:
    logits = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ink_probability(logits), logits.softmax(1)[:, 1:].sum(1))


class Leaning(Fake):
    """Three classes: nothing for the first, what lies in the middle layer and its opposite for the others."""

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        middle = volume[:, :, DEPTH // 2]
        return Heads([torch.cat([torch.zeros_like(middle), middle, -middle], dim=1)])


def test_each_class_has_its_map_and_ink_is_what_is_not_background(fragment: Fragment) -> None:
    model, rect = Leaning(classes=3), Rect(3, 60, 5, 90)
    stored = fragment.read(0, HEIGHT, 0, WIDTH, DEPTH // 2, DEPTH // 2 + 1)[0][rect.slices]
    middle = torch.from_numpy(CONTRACT.normalise(stored))
    expected = torch.stack([torch.zeros_like(middle), middle, -middle]).softmax(0).numpy()
    found = predict_region(model, fragment, rect, CONTRACT, precision="fp32", classes=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1] > found[2], middle.numpy() > 0)
    ink = predict_region(model, fragment, rect, CONTRACT, precision="fp32")
    np.testing.assert_allclose(found[1:].sum(0), ink, atol=1e-6)
    out = np.full((3, rect.height, rect.width), 9, np.float32)
    assert predict_region(model, fragment, rect, CONTRACT, precision="fp32", classes=True, out=out) is out
    np.testing.assert_array_equal(out, found)


def test_far_from_papyrus_no_class_has_any_probability(fragment: Fragment) -> None:
    bare = open_fragment(fragment.path)
    bare.papyrus = np.zeros((HEIGHT, WIDTH), bool)
    bare.papyrus[:, :40] = True
    found = predict_region(Leaning(classes=3), bare, None, CONTRACT, precision="fp32", classes=True)
    np.testing.assert_allclose(found[:, :, :40].sum(0), 1, atol=1e-6)
    assert (found[:, :, 80:] == 0).all()


def test_classes_of_a_model_of_one_are_refused(fragment: Fragment) -> None:
    with pytest.raises(ValueError, match="built for one class"):
        predict_region(Fake(), fragment, None, CONTRACT, classes=True)


def test_the_model_is_left_in_the_mode_it_was_in(fragment: Fragment) -> None:
    model = Fake().train()
    predict_region(model, fragment, Rect(0, 8, 0, 8), CONTRACT)
    assert model.training


def test_what_cannot_be_predicted_is_refused(fragment: Fragment) -> None:
    with pytest.raises(ValueError, match="leaves its 100×149 px"):
        predict_region(Fake(), fragment, Rect(0, 101, 0, 10), CONTRACT)
    with pytest.raises(ValueError, match="empty"):
        predict_region(Fake(), fragment, Rect(5, 5, 0, 10), CONTRACT)
    with pytest.raises(ValueError, match="overlap"):
        predict_region(Fake(), fragment, None, CONTRACT, overlap=1.0)
    with pytest.raises(ValueError, match="expected uint16"):
        predict_region(Fake(), fragment, None, CONTRACT.model_copy(update={"stored_dtype": "uint16"}))


def test_running_out_of_memory_is_one_error(fragment: Fragment, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> Heads:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    model = Fake()
    monkeypatch.setattr(model, "heads", exhausted)
    with pytest.raises(OutOfMemoryError, match="predicting with fake; use a smaller batch"):
        predict_region(model, fragment, None, CONTRACT)


def test_degraded_input_reaches_the_model(fragment: Fragment) -> None:
    model = Fake()
    predict_region(model, fragment, Rect(0, 8, 0, 8), CONTRACT, degrade="zmean")
    assert torch.equal(model.inputs[0], model.inputs[0][:, :, :1].expand_as(model.inputs[0]))


@pytest.mark.parametrize("depth", [1, 2, 13])
def test_degrading_keeps_what_it_says(depth: int) -> None:
    volume = torch.randn(2, 1, depth, 4, 4)
    mean, shuffled = degrade(volume, "zmean"), degrade(volume, "zshuffle")
    torch.testing.assert_close(mean[:, :, 0], volume.mean(2))
    torch.testing.assert_close(shuffled.sort(2).values, volume.sort(2).values)
    assert torch.equal(shuffled, degrade(volume, "zshuffle"))
    assert depth == 1 or not torch.equal(layer_order(depth), torch.arange(depth))
    assert degrade(volume, None) is volume
    with pytest.raises(ValueError, match="allowed: zmean, zshuffle"):
        degrade(volume, "zmax")  # pyright: ignore[reportArgumentType]
