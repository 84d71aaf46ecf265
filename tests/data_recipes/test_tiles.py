"""The contract between stored intensities and model input, the dataset, and augmentation."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data_recipes.augment import AugmentSettings, augment
from data_recipes.fragment import Fragment, open_fragment
from data_recipes.regions import Rect
from data_recipes.sampling import grid_table
from data_recipes.table import SampleTable
from data_recipes.tiles import InputContract, TileDataset, fit_contract, to_uint8


def write(folder: Path, *, dtype: str = "uint8", settings: str = "") -> Fragment:
    """9 layers of 64×96 px, layer z holding about 10·z."""
    (folder / "layers").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for z in range(9):
        layer = (10 * z + rng.integers(0, 5, (64, 96))).astype(dtype)
        tifffile.imwrite(folder / "layers" / f"{z:02d}.tif", layer * (256 if dtype == "uint16" else 1))
    Image.fromarray((np.arange(96)[None] < np.full((64, 1), 40)).astype(np.uint8) * 255).save(
        folder / f"{folder.name}_inklabels.png"
    )
    (folder / "fragment.yaml").write_text(f"center_layer: 4\nvoxel_um: 7.91\ndirection: forward\n{settings}")
    return open_fragment(folder)


@pytest.fixture
def stack(tmp_path: Path) -> Fragment:
    return write(tmp_path / "f")


def contract(**changed) -> InputContract:
    return InputContract(**{"stored_dtype": "uint8", "depth": 5, "tile": 32, **changed})


def table(fragment: Fragment) -> SampleTable:
    assert fragment.label is not None
    rects = (Rect(0, 64, 0, 96),)
    return grid_table(fragment.name, rects, fragment.label, fragment.papyrus, fragment.supervised, tile=32, stride=32)


def test_the_window_sits_about_the_centre_layer(stack: Fragment) -> None:
    assert contract().window(stack) == (2, 7)
    assert contract(offset=1, depth=4).window(stack) == (3, 7)
    assert (contract().read(stack, 0, 0)[:, 0, 0] // 10).tolist() == [2, 3, 4, 5, 6]


def test_reverse_reads_the_same_layers_about_the_centre_upside_down(stack: Fragment, tmp_path: Path) -> None:
    assert (contract(direction="reverse").read(stack, 0, 0)[:, 0, 0] // 10).tolist() == [6, 5, 4, 3, 2]
    # offset counts in the contract's direction
    assert (contract(direction="reverse", offset=1).read(stack, 0, 0)[:, 0, 0] // 10).tolist() == [5, 4, 3, 2, 1]
    flipped = write(tmp_path / "g")
    (tmp_path / "g" / "fragment.yaml").write_text("center_layer: 4\ndirection: reverse\n")
    flipped = open_fragment(tmp_path / "g")
    assert (contract().read(flipped, 0, 0)[:, 0, 0] // 10).tolist() == [6, 5, 4, 3, 2]


@pytest.mark.parametrize(("layers", "depth", "forward"), [(16, 16, (0, 16)), (9, 9, (0, 9)), (16, 12, (2, 14))])
def test_about_an_unknown_centre_a_window_lies_in_the_middle_both_ways(tmp_path, layers, depth, forward) -> None:
    (tmp_path / "f" / "layers").mkdir(parents=True)
    for z in range(layers):
        tifffile.imwrite(tmp_path / "f" / "layers" / f"{z:02d}.tif", np.full((8, 8), z, np.uint8))
    stored = list(range(*forward))
    for stated, asked in [(s, a) for s in ("forward", "reverse") for a in ("forward", "reverse")]:
        (tmp_path / "f" / "fragment.yaml").write_text(f"direction: {stated}\n")
        reads = contract(depth=depth, tile=8, direction=asked)
        fragment = open_fragment(tmp_path / "f")
        assert reads.window(fragment) == forward
        assert reads.read(fragment, 0, 0)[:, 0, 0].tolist() == (stored if stated == asked else stored[::-1])


@pytest.mark.parametrize("depth", [4, 5])
def test_about_an_unknown_centre_an_uneven_rest_lies_on_the_side_read_last(tmp_path, depth) -> None:
    write(tmp_path / "f")
    (tmp_path / "f" / "fragment.yaml").write_text("direction: forward\n")
    shallow = open_fragment(tmp_path / "f")  # 9 layers
    z0, z1 = contract(depth=depth).window(shallow)
    assert contract(depth=depth, direction="reverse").window(shallow) == (9 - z1, 9 - z0)


def test_values_are_clipped_divided_and_standardised() -> None:
    got = contract(clip=(10, 200), divisor=200, mean=0.5, std=0.25).normalise(np.array([0, 100, 255], np.uint8))
    assert got == pytest.approx([(0.05 - 0.5) / 0.25, 0.0, (1 - 0.5) / 0.25], abs=1e-6)
    assert got.dtype == np.float32


def test_sixteen_bits_become_eight_as_stated() -> None:
    stored = np.array([0, 255, 256, 40000, 65535], np.uint16)
    assert to_uint8(stored, "high_byte").tolist() == [0, 0, 1, 156, 255]
    assert to_uint8(stored, "clip:0:40000").tolist() == [0, 2, 2, 255, 255]
    assert to_uint8(stored, "none") is stored
    with pytest.raises(ValueError, match="high_byte"):
        contract(to_uint8="high-byte")


def test_mean_and_deviation_come_from_training_pixels_only(tmp_path: Path) -> None:
    fragment = write(tmp_path / "f")
    for z in range(9):  # the right half is far brighter, and is not for training
        path = tmp_path / "f" / "layers" / f"{z:02d}.tif"
        layer = tifffile.imread(path)
        layer[:, 48:] = 250
        tifffile.imwrite(path, layer)
    fragment = open_fragment(tmp_path / "f")
    fitted = fit_contract({"f": fragment}, {"f": (Rect(0, 64, 0, 48),)}, depth=5, tile=16)
    assert 255 * fitted.mean == pytest.approx(42, abs=1)
    assert fitted.voxel_um == 7.91


@pytest.mark.parametrize("rect", [Rect(0, 64, 0, 20), Rect(0, 20, 0, 48), Rect(3, 13, 2, 12)])
def test_a_training_rectangle_smaller_than_a_tile_lends_no_pixel_beside_it(tmp_path: Path, rect: Rect) -> None:
    write(tmp_path / "f")
    for path in (tmp_path / "f" / "layers").iterdir():
        layer = np.full((64, 96), 250, np.uint8)  # beside the rectangle
        layer[rect.slices] = tifffile.imread(path)[rect.slices]
        tifffile.imwrite(path, layer)
    fitted = fit_contract({"f": open_fragment(tmp_path / "f")}, {"f": (rect,)}, depth=5, tile=32)
    assert 255 * fitted.mean == pytest.approx(42, abs=1)
    assert 255 * fitted.std == pytest.approx(14.2, abs=1)


def test_pixels_of_the_validation_mask_are_not_in_mean_and_deviation(tmp_path: Path) -> None:
    write(tmp_path / "f")
    held_out = np.zeros((64, 96), bool)
    held_out[20:40, 30:70] = True
    for path in (tmp_path / "f" / "layers").iterdir():
        tifffile.imwrite(path, np.where(held_out, 250, tifffile.imread(path)).astype(np.uint8))
    Image.fromarray(held_out.astype(np.uint8) * 255).save(tmp_path / "f" / "f_validation_mask.png")
    fitted = fit_contract({"f": open_fragment(tmp_path / "f")}, {"f": (Rect(0, 64, 0, 96),)}, depth=5, tile=32)
    assert 255 * fitted.mean == pytest.approx(42, abs=1)
    assert 255 * fitted.std == pytest.approx(14.2, abs=1)


def test_sixteen_bit_layers_give_the_same_input_by_their_high_byte(tmp_path: Path) -> None:
    fragments = [write(tmp_path / "a"), write(tmp_path / "b", dtype="uint16")]
    region = [{f.name: (Rect(0, 64, 0, 96),)} for f in fragments]
    fitted = [fit_contract({f.name: f}, r, depth=5, tile=16) for f, r in zip(fragments, region, strict=True)]
    assert fitted[1].to_uint8 == "high_byte"
    tiles = [c.normalise(c.read(f, 0, 0)) for c, f in zip(fitted, fragments, strict=True)]
    assert tiles[0] == pytest.approx(tiles[1], abs=0.05)


def test_what_differs_from_training_is_refused_by_name(stack: Fragment) -> None:
    with pytest.raises(ValueError, match="uint8, expected uint16 as in training; give its 16-bit layers"):
        contract(stored_dtype="uint16").check(stack)
    with pytest.raises(ValueError, match=r"7\.91 µm, expected 3\.24"):
        contract(voxel_um=3.24).check(stack)


def test_eight_bits_that_came_from_sixteen_in_another_way_are_refused(tmp_path: Path) -> None:
    region = (Rect(0, 64, 0, 96),)
    by = {
        name: write(tmp_path / name, settings=f"to_uint8: {how}\n" if how else "")
        for name, how in (("high", "high_byte"), ("clip", "clip:0:4e4"), ("same", "clip:0.0:40000"), ("unknown", ""))
    }
    fitted = fit_contract(
        {name: by[name] for name in ("clip", "same", "unknown")},
        dict.fromkeys(("clip", "same", "unknown"), region),
        depth=5,
        tile=16,
    )
    assert fitted.source_to_uint8 == "clip:0:40000"
    fitted.check(by["same"])
    fitted.check(by["unknown"])
    with pytest.raises(ValueError, match=r"by high_byte, expected clip:0:40000 .*--to-uint8 clip:0:40000"):
        fitted.check(by["high"])
    with pytest.raises(ValueError, match=r"high by high_byte, same by clip:0:40000; convert all"):
        fit_contract(by, dict.fromkeys(by, region), depth=5, tile=16)
    unsure = fit_contract({"unknown": by["unknown"]}, {"unknown": region}, depth=5, tile=16)
    assert unsure.source_to_uint8 is None
    unsure.check(by["high"])
    assert any("8 bits came from 16 is unknown" in note for note in by["unknown"].notes)
    assert not any("8 bits" in note for note in by["high"].notes)


def test_an_item_is_volume_label_and_mask_of_one_place(stack: Fragment) -> None:
    dataset = TileDataset({"f": stack}, table(stack), contract())
    assert len(dataset) == 6
    item = dataset[1]
    assert item["volume"].shape == (1, 5, 32, 32)
    assert item["volume"].dtype == torch.float32
    y, x = int(dataset.table.y[1]), int(dataset.table.x[1])
    expected = (x + torch.arange(32) < 40).expand(32, 32)
    assert torch.equal(item["label"][0].bool(), expected)
    assert item["mask"].all()
    assert y % 32 == 0


def test_a_dataset_travels_by_path(stack: Fragment) -> None:
    sent = pickle.dumps(TileDataset({"f": stack}, table(stack), contract()))
    assert len(sent) < 20_000
    assert torch.equal(
        pickle.loads(sent)[0]["volume"], TileDataset({"f": stack}, table(stack), contract())[0]["volume"]
    )


def batch(size: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(size, 1, 5, 16, 16, generator=generator)
    label = (volume[:, :, 2] > 0).to(torch.uint8)
    return {"volume": volume, "label": label, "mask": label > 0, "index": torch.arange(size)}


MOVES_ONLY = AugmentSettings(gain=0, offset=0, depth_shift=0, cutout=0)


@pytest.mark.parametrize("changed", [{}, {"quarter_turns": False}, {"flips": False}])
def test_tile_label_and_mask_move_together_and_labels_stay_labels(changed: dict[str, bool]) -> None:
    out = augment(batch(), torch.Generator().manual_seed(1), MOVES_ONLY.model_copy(update=changed))
    assert torch.equal(out["volume"][:, :, 2] > 0, out["label"] > 0)
    assert torch.equal(out["mask"], out["label"] > 0)
    assert not torch.equal(out["volume"], batch()["volume"])
    assert out["label"].dtype == torch.uint8


def test_moves_reach_all_eight_symmetries_about_equally_often() -> None:
    one = batch(1)["volume"].expand(800, -1, -1, -1, -1).clone()
    flat = torch.zeros(800, 1, 16, 16)
    out = augment({"volume": one, "label": flat, "mask": flat}, torch.Generator().manual_seed(2), MOVES_ONLY)
    kinds = {tuple(sample[0, 2, :2, :2].flatten().tolist()) for sample in out["volume"]}
    assert len(kinds) == 8


def test_the_same_draws_give_the_same_batch_and_the_input_is_left_alone() -> None:
    before = batch()
    outs = [augment(before, torch.Generator().manual_seed(3), AugmentSettings()) for _ in range(2)]
    assert torch.equal(outs[0]["volume"], outs[1]["volume"])
    assert torch.equal(before["volume"], batch()["volume"])


def test_depth_order_is_kept_by_a_shift() -> None:
    ramp = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(32, 1, 5, 8, 8).clone()
    flat = torch.zeros(32, 1, 8, 8)
    settings = AugmentSettings(flips=False, quarter_turns=False, gain=0, offset=0, cutout=0, depth_shift=1)
    out = augment({"volume": ramp, "label": flat, "mask": flat}, torch.Generator().manual_seed(4), settings)["volume"]
    seen = {tuple(sample[0, :, 0, 0].tolist()) for sample in out}
    assert seen == {(0, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 4)}
