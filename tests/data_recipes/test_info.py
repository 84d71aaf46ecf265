"""`python -m data_recipes info` says what was understood and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_recipes import info
from data_recipes.fragment import open_fragment
from data_recipes.info import describe, statistics

SHAPE = (100, 80)


@pytest.fixture
def segment(tmp_path) -> Path:
    root = tmp_path / "seg"
    (root / "layers").mkdir(parents=True)
    for z in range(3):
        tifffile.imwrite(root / "layers" / f"{z:02}.tif", np.full(SHAPE, z, np.uint8))
    mask, label, supervised = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    mask[:50], label[40:60], supervised[:, :40] = 255, 255, 255
    for kind, plane in (("mask", mask), ("inklabels", label), ("supervision_mask", supervised)):
        Image.fromarray(plane).save(root / f"seg_{kind}.png")
    return root


def test_percentages_are_counted_over_the_papyrus(segment):
    facts = describe(open_fragment(segment))
    assert facts["papyrus_percent"] == 50
    assert facts["ink_percent_of_papyrus"] == 20
    assert facts["supervised_percent_of_papyrus"] == 50
    assert facts["ink_percent_of_supervised"] == 20
    assert (facts["layers"], facts["height"], facts["width"], facts["dtype"]) == (3, *SHAPE, "uint8")
    assert facts["direction"] is None
    assert facts["center_layer"] is None


def test_bands_do_not_change_the_count(segment, monkeypatch):
    fragment = open_fragment(segment)
    whole = statistics(fragment)
    monkeypatch.setattr(info, "BAND_PIXELS", 7 * SHAPE[1])
    assert statistics(fragment) == whole


def test_label_and_mask_that_are_all_zero_are_announced(segment):
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(segment / "seg_inklabels.png")
    assert "ink label is all zero" in describe(open_fragment(segment))["notes"][0]
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(segment / "seg_mask.png")
    assert "papyrus mask is all zero" in describe(open_fragment(segment))["notes"][0]


def test_a_second_label_is_told_with_how_far_the_two_agree(segment, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    other = np.zeros(SHAPE, np.uint8)
    other[45:60] = 255  # of the first's 10 rows on the papyrus the last 5
    Image.fromarray(other).save(segment / "old.png")
    (segment / "fragment.yaml").write_text("other_label: old.png")
    facts = describe(open_fragment(segment))
    assert facts["other_ink_percent_of_papyrus"] == 10
    assert facts["label_agreement_dice"] == pytest.approx(2 * 5 / (10 + 5))
    info.run([str(segment)], as_json=False, count=True)
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "second label 10.00 % of the papyrus, agrees with the first to a Dice of 0.667" in out
    info.run([str(segment)], as_json=False, count=False)
    assert "second label present (old.png)" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_table_names_everything_and_takes_file_names_as_plain_text(segment, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    strange = segment.rename(segment.parent / "[red]seg[bold]")
    info.run([str(strange)], as_json=False, count=True)
    out = capsys.readouterr().out
    assert "[red]seg[bold]" in out
    for word in ("scroll segment, 3 TIFF layers", "3 layers of 100 × 80 px, uint8", "voxel size", "50.00 %", "unknown"):
        assert word in out, word


def test_json_is_one_object_a_fragment(segment, capsys):
    info.run([str(segment)], as_json=True, count=False)
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["name"] == "seg"
    assert "papyrus_percent" not in facts
    assert set(facts["planes"]) == {"mask", "inklabels", "supervision_mask"}


def test_labels_alone_are_told_as_such(segment):
    for layer in (segment / "layers").iterdir():
        layer.unlink()
    (segment / "layers").rmdir()
    facts = describe(open_fragment(segment))
    assert (facts["layers"], facts["dtype"]) == (0, None)
    assert "no layers" in facts["notes"][0]


def test_classes_are_counted_one_by_one(segment):
    (segment / "fragment.yaml").write_text("label_values: {0: 0, 255: 2}")
    assert describe(open_fragment(segment))["class_percent_of_papyrus"] == {"0": 80.0, "2": 20.0}
