"""The null of a bench is compared with the AUC of what it was made of, on blocks that no border of letters cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data_recipes.regions import Rect
from data_recipes.split import Fold
from tests.zoo.test_bench_parts import fragment, suite
from zoo.bench.score import AUC_BLOCK, score
from zoo.bench.suite import load_suite
from zoo.metrics import auc, block_scores

SIDE = 700
LARGE, SMALL = Rect(5, 605, 7, 567), Rect(10, 500, 590, 690)


def smooth(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), 12)
    return (noise - noise.min()) / np.ptp(noise)


def test_a_null_stands_beside_the_auc_of_the_same_rectangle(tmp_path: Path) -> None:
    maps = {"a": smooth(1), "b": smooth(2)}
    pages = {name: fragment((prob > 0.55).astype(np.uint8), name) for name, prob in maps.items()}
    maps["b"] = np.where(np.arange(SIDE) < 580, smooth(3), maps["b"])  # read where the null does not look
    strip = {"a": (Rect(610, 700, 0, 700),)}
    fold = Fold("f", {}, strip, {"a": (LARGE, SMALL), "b": (LARGE, SMALL)}, 64)
    found = score(lambda f, r: maps[f.name][r.slices].astype(np.float32), pages, fold, folder=tmp_path, letter_px=64)
    for name, prob in maps.items():
        label = pages[name].label
        assert label is not None
        place = {"block": AUC_BLOCK, "y0": LARGE.y0, "x0": LARGE.x0}
        blocks = block_scores(prob[LARGE.slices], label[LARGE.slices], np.ones((600, 560), bool), **place)
        scores = found.per_fragment[name]
        assert scores["null_auc"] == pytest.approx(auc(blocks.score, blocks.ink), abs=1e-3)  # the map is saved in half
    a, b = (found.per_fragment[name] for name in "ab")
    assert b["auc_blocks"] != pytest.approx(b["null_auc"], abs=0.02)
    assert a["null_auc"] > a["null_high"] and b["null_auc"] < b["null_high"]
    assert found.controls["null_auc"] == b["null_auc"] and found.controls["null_high"] == b["null_high"]


def test_a_region_without_a_null_has_none_of_either(tmp_path: Path) -> None:
    page = fragment((smooth(1) > 0.55).astype(np.uint8))
    fold = Fold("f", {}, {"a": (Rect(610, 700, 0, 700),)}, {"a": (Rect(0, 200, 0, 200),)}, 64)
    found = score(lambda f, r: smooth(1)[r.slices].astype(np.float32), {"a": page}, fold, folder=tmp_path, letter_px=64)
    for scores in (found.controls, found.per_fragment["a"]):
        assert scores["null_auc"] is None and scores["null_high"] is None


def test_letters_are_whole_blocks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        suite(letter_px=100)
    assert suite(letter_px=112).letter_px == 112
    file = tmp_path / "mine.yaml"
    file.write_text("about: x\nmodels: [{name: sam}]\nletter_px: 200\n")
    with pytest.raises(ValueError, match=r"letter_px: input should be a multiple of 16, got 200$"):
        load_suite(str(file))
