"""Settings of augmentation: what may be written, the sets that ship, and their preview."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data_recipes.augment import AugmentSettings, augment, list_sets, load_set
from data_recipes.augment.preview import draw, preview, strongest, tiles_with_ink, told
from data_recipes.augment.settings import OFF
from zoo.train.config import TrainConfig, load_train_config


def test_the_sets_that_ship() -> None:
    assert list_sets() == ["ink", "light", "steel"]


def test_light_is_what_training_does_by_default() -> None:
    assert load_set("light") == AugmentSettings() == TrainConfig().augment
    assert load_set("light").active() == ["flips", "quarter_turns", "depth_shift", "gain", "offset", "cutout"]


def test_steel_is_what_the_study_of_steel_lists_and_nothing_along_z() -> None:
    steel = load_set("steel")
    assert steel.active() == ["flips", "quarter_turns", "magnification", "contrast", "gamma", "gain", "offset"]
    assert steel.magnification == (1, 2.5)


def test_ink_keeps_the_direction_of_depth_and_labels_hard() -> None:
    active = load_set("ink").active()
    assert {"rotation", "elastic", "blur", "noise", "layer_drop", "cutmix"} <= {*active}
    assert not {"depth_reverse", "mixup"} & {*active}


@pytest.mark.parametrize("name", list_sets())
def test_every_set_runs_on_a_batch(name: str) -> None:
    drawn = torch.randn(6, 1, 7, 32, 32, generator=torch.Generator().manual_seed(0))
    label = (drawn[:, :, 3] > 0.5).to(torch.uint8)
    batch = {"volume": drawn, "label": label, "mask": label < 2}
    out = augment(batch, torch.Generator().manual_seed(0), load_set(name))
    assert out["volume"].isfinite().all()
    assert out["label"].dtype == torch.uint8
    assert not torch.equal(out["volume"], batch["volume"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rotation": 200}, "less than or equal to 180"),
        ({"warp": 1.5}, "less than or equal to 1"),
        ({"offset": float("inf")}, "finite"),
        ({"layer_drop": 1.0}, "less than 1"),
        ({"contrast_cells": 0}, "greater than or equal to 1"),
        ({"blur_sigma": (0, 1)}, "greater than 0"),
        ({"blur_sigma": (1, 9)}, "less than or equal to 4"),
        ({"mixup_alpha": 0}, "greater than 0"),
        ({"magnification": (2.5, 1)}, "magnification runs from 2.5 to 1; give the lower end first"),
        ({"cutout_side": (0.5, 0.2)}, "cutout_side runs from 0.5 to 0.2; give the lower end first"),
        ({"magnification": (0.1, 1)}, "from 0.1 to 1 is not possible; stay within 0.5 and 4"),
        ({"elastic": 10}, "could fold the tile; lower elastic to 6 or raise elastic_spacing to 40"),
        ({"rotate": 10}, "Extra inputs"),
        ("inc", "unknown set of augmentations 'inc': nearest is 'ink' of ink, light, steel; or give a .yaml file"),
    ],
)
def test_what_is_not_possible_is_said(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentSettings.model_validate(given)


@pytest.mark.parametrize("name", OFF)
def test_a_transform_alone_is_the_only_active_one(name: str) -> None:
    every = AugmentSettings(
        warp=0.5, rotation=9, magnification=(0.8, 1.2), elastic=2, depth_reverse=0.1, layer_swap=0.1, layer_drop=0.1,
        contrast=0.1, gamma=0.1, blur=0.1, noise=0.1, cutmix=0.1, mixup=0.1,
    )  # fmt: skip
    assert every.active() == list(OFF)
    assert every.only(name).active() == [name]
    assert told(every, name).startswith(name)
    assert set(OFF) < set(AugmentSettings.model_fields)


def test_warps_that_no_tile_gets_are_not_active() -> None:
    settings = AugmentSettings(warp=0, rotation=30)
    assert not settings.warps
    assert "rotation" not in settings.active()


def test_every_field_says_what_it_does() -> None:
    assert all(field.description for field in AugmentSettings.model_fields.values())


def test_a_training_takes_a_set_by_name_by_file_or_with_changes(tmp_path: Path) -> None:
    assert load_train_config(augment="ink").augment == load_set("ink")
    mine = tmp_path / "mine.yaml"
    mine.write_text("set: ink\nmixup: 0.2\n")
    expected = load_set("ink").model_copy(update={"mixup": 0.2})
    assert load_train_config(augment=str(mine)).augment == expected
    config = tmp_path / "train.yaml"
    config.write_text("augment: {set: ink, mixup: 0.2}\n")
    loaded = load_train_config(config)
    assert loaded.augment == expected
    assert TrainConfig.model_validate_json(loaded.model_dump_json()) == loaded
    config.write_text("augment: steal\n")
    with pytest.raises(ValueError, match=r"augment: unknown set of augmentations 'steal': nearest is 'steel'"):
        load_train_config(config)
    config.write_text("augment: {set: ink, rotatoin: 3}\n")
    with pytest.raises(ValueError, match=r"unknown key 'augment\.rotatoin'; nearest is 'rotation'"):
        load_train_config(config)
    with pytest.raises(FileNotFoundError, match=r"no set of augmentations at .*gone\.yaml"):
        load_train_config(augment=str(tmp_path / "gone.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Five layers of 96×96 px with a disc of ink that shows in all of them."""
    folder = tmp_path_factory.mktemp("fragments") / "disc"
    (folder / "layers").mkdir(parents=True)
    y, x = np.mgrid[:96, :96]
    ink = (y - 48) ** 2 + (x - 44) ** 2 < 22**2
    rng = np.random.default_rng(0)
    for z in range(5):
        tifffile.imwrite(
            folder / "layers" / f"{z:02d}.tif", (60 + 80 * ink + rng.integers(0, 60, ink.shape)).astype(np.uint8)
        )
    Image.fromarray(ink.astype(np.uint8) * 255).save(folder / "disc_inklabels.png")
    (folder / "fragment.yaml").write_text("center_layer: 2\nvoxel_um: 7.91\ndirection: forward\n")
    return str(folder)


def test_the_preview_reads_a_tile_with_ink_and_without(data: str) -> None:
    batch = tiles_with_ink([data], tile=32, depth=3, seed=0)
    assert batch["volume"].shape == (4, 1, 3, 32, 32)
    assert 0.2 < batch["label"][0].float().mean() < 0.6
    assert abs(batch["volume"].mean()) < 1.5


def test_the_preview_shows_every_transform_of_the_set_and_what_does_not_count(data: str, tmp_path: Path) -> None:
    settings = load_set("ink")
    figure = draw(tiles_with_ink([data], tile=32, depth=None, seed=0), settings, title="t", draws=2, seed=0)
    headings = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert headings == ["as it is read", "draw 1", "draw 2", *(told(settings, name) for name in settings.active())]
    out = preview(settings, [data], tmp_path / "p.png", title="t", tile=32, draws=1, dpi=40)
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    for colour in ((62, 50, 40), (232, 222, 200), (199, 89, 77)):
        assert (np.abs(picture - np.array(colour)).max(-1) < 12).sum() > 50, colour


def test_the_preview_of_one_transform_is_a_draw_that_shows_it() -> None:
    label = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    drawn = torch.randn(4, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = {"volume": drawn, "label": label, "mask": label < 1}
    shown = strongest(batch, load_set("light").only("depth_shift"), 0)["volume"]
    assert not torch.equal(shown[0], batch["volume"][0])


def test_the_preview_refuses_what_it_cannot_draw(data: str, tmp_path: Path) -> None:
    light = load_set("light")
    with pytest.raises(ValueError, match=r"--out .* is a folder; name the file"):
        preview(light, ["no such data"], tmp_path, title="t")
    with pytest.raises(ValueError, match="a tile of 4 px and 6 draws; give at least 8 px"):
        preview(light, [data], tmp_path / "p.png", title="t", tile=4)
    with pytest.raises(ValueError, match="a tile of 128 px fits nowhere"):
        preview(light, [data], tmp_path / "p.png", title="t", tile=128)
    spot = tmp_path / "disc"
    shutil.copytree(data, spot)
    papyrus = np.zeros((96, 96), np.uint8)
    papyrus[20:32, 40:52] = 255  # too little of it for any tile
    Image.fromarray(papyrus).save(spot / "disc_mask.png")
    with pytest.raises(ValueError, match=r"not one tile of 32 px fits the papyrus of .*disc; give a smaller --tile"):
        preview(light, [str(spot)], tmp_path / "p.png", title="t", tile=32)
