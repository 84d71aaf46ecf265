"""The bench's measures of shape, whole and by fragment, and how far two labels of one fragment agree."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter
from sklearn import metrics as sk

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from data_recipes.split import Fold
from zoo.bench.result import Result
from zoo.bench.score import Outcome, score
from zoo.bench.shapes import InkPlane, ink_plane
from zoo.document_metrics import DocumentCounts, document_counts
from zoo.surface_dice import SurfaceCounts, surface_counts

SHAPES = ("surface_dice", "pseudo_f", "centre_line_recall")
AGREEMENT = ("dice", "f05", "accuracy", "surface_dice")


def writing(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.uint8)
    for _ in range(shape[0] * shape[1] // 8000):
        x, y = int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0]))
        points = np.cumsum([[x, y], *rng.integers(-50, 50, (3, 2))], axis=0).astype(np.int32)
        cv2.polylines(image, [points], False, (1,), int(rng.integers(3, 14)))
    return image


def fragment(name: str, label: np.ndarray, other: np.ndarray | None = None) -> Fragment:
    supervised = np.ones(label.shape, bool)
    supervised[::3, 40:60] = False
    papyrus = np.ones(label.shape, bool)
    papyrus[:30] = False
    fake = SimpleNamespace(
        name=name, path=Path("nowhere"), shape=label.shape, depth=4, volume=None, sources={},
        label=label, other_label=other, papyrus=papyrus, supervised=supervised, validation=None,
    )  # fmt: skip
    return cast(Fragment, fake)


def probability(label: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1.5, label.shape).astype(np.float32)
    return np.clip(cv2.GaussianBlur(label.astype(np.float32) + noise, (0, 0), 3), 0, 1)


TEST = {"a": (Rect(200, 1700, 64, 300), Rect(900, 1000, 300, 390)), "b": (Rect(0, 200, 100, 300),)}


@pytest.fixture
def pages() -> dict[str, Fragment]:
    label = writing(1, (1750, 400))
    older = np.roll(label, 4, 1)
    older[1000:1100] = 0
    return {"a": fragment("a", label, older), "b": fragment("b", writing(2, (200, 300)))}


def scored(pages: dict[str, Fragment], folder: Path, prob: dict[str, np.ndarray] | None = None) -> Outcome:
    maps = prob or {name: probability(np.asarray(page.label)) for name, page in pages.items()}
    fold = Fold("f", {}, {"a": (Rect(0, 200, 0, 400),)}, TEST, 64)
    return score(lambda f, r: maps[f.name][r.slices].copy(), pages, fold, folder=folder, letter_px=64)


def counted(page: Fragment) -> np.ndarray:
    """What counts of the whole fragment."""
    inside = np.zeros(page.shape, bool)
    for rect in TEST[page.name]:
        inside[rect.slices] = True
    return inside & np.asarray(page.papyrus) & np.asarray(page.supervised)


def expected(page: Fragment, predicted: np.ndarray) -> tuple[DocumentCounts, SurfaceCounts]:
    """Of the whole fragment at once, in memory."""
    ink, mask = np.asarray(page.label) > 0, counted(page)
    return document_counts(predicted, ink, mask), surface_counts(predicted, ink, mask)


def test_shapes_are_those_of_the_whole_map_by_fragment_and_together(pages, tmp_path):
    outcome = scored(pages, tmp_path)
    strokes, surface = DocumentCounts(), SurfaceCounts()
    for name, page in pages.items():
        own = expected(page, probability(np.asarray(page.label)) >= outcome.threshold)
        values = own[1].dice(), own[0].pseudo_f(), own[0].centre_line_recall()
        assert [outcome.per_fragment[name][key] for key in SHAPES] == pytest.approx(values)
        assert all(0.2 < value < 1 for value in values)
        strokes, surface = strokes + own[0], surface + own[1]
    values = surface.dice(), strokes.pseudo_f(), strokes.centre_line_recall()
    assert [outcome.quality[key] for key in SHAPES] == pytest.approx(values)
    # a histogram puts what lies within a thousandth of a bin below the threshold above it
    assert outcome.quality["dice"] == pytest.approx(strokes.confusion.fbeta(1), rel=1e-4)


def test_how_far_two_labels_agree_is_that_of_a_map_that_is_the_other_label(pages, tmp_path):
    outcome = scored(pages, tmp_path)
    page = pages["a"]
    other, ink, mask = np.asarray(page.other_label) > 0, np.asarray(page.label) > 0, counted(page)
    values = {
        "dice": sk.f1_score(ink[mask], other[mask]),
        "f05": sk.fbeta_score(ink[mask], other[mask], beta=0.5),
        "accuracy": sk.accuracy_score(ink[mask], other[mask]),
        "surface_dice": surface_counts(other, ink, mask).dice(),
    }
    assert outcome.controls["label_agreement"] == pytest.approx({**values, "pixels": mask.sum()})
    told = {key: outcome.per_fragment["a"][f"label_agreement_{key}"] for key in AGREEMENT}
    assert told == pytest.approx(values) and told["surface_dice"] > told["dice"]
    assert not [key for key in outcome.per_fragment["b"] if "agreement" in key], "it has no second label"


def test_without_a_second_label_there_is_no_agreement(tmp_path):
    one = {"a": fragment("a", writing(1, (1750, 400))), "b": fragment("b", writing(2, (200, 300)))}
    outcome = scored(one, tmp_path)
    assert outcome.controls["label_agreement"] is None
    assert not [key for scores in outcome.per_fragment.values() for key in scores if "agreement" in key]


def test_a_result_takes_what_scoring_finds(pages, tmp_path):
    outcome = scored(pages, tmp_path)
    for name in ("quality", "per_fragment", "controls"):
        found = getattr(outcome, name)
        TypeAdapter(Result.model_fields[name].annotation).validate_python(found)
        json.dumps(found, allow_nan=False)


def test_thresholds_near_one_are_those_of_the_prediction_not_of_the_map_that_is_kept(pages, tmp_path):
    """16 bits cannot tell .9998 from 1."""
    sure = {name: np.where(np.asarray(page.label) > 0, 0.99999, 0.9998) for name, page in pages.items()}
    outcome = scored(pages, tmp_path, {name: prob.astype(np.float32) for name, prob in sure.items()})
    assert 0.9998 < outcome.threshold < 0.99999
    assert outcome.quality["dice"] == 1
    assert [outcome.quality[key] for key in SHAPES] == [1, 1, 1]


def test_a_blank_fragment_has_the_values_of_nothing_to_find(pages, tmp_path):
    blank = {**pages, "b": fragment("b", np.zeros((200, 300), np.uint8))}
    maps = {"a": probability(np.asarray(pages["a"].label)), "b": np.zeros((200, 300), np.float32)}
    own = scored(blank, tmp_path, maps).per_fragment["b"]
    assert (own["dice"], *(own[key] for key in SHAPES)) == (1, 1, 1, None)


def test_the_plane_of_called_ink_slices_as_numpy_does_and_leaves_no_file(tmp_path):
    at, rng = Rect(10, 30, 5, 45), np.random.default_rng(0)
    whole = np.zeros((40, 50), np.uint8)
    whole[at.slices] = rng.random((20, 40)) < 0.5
    with ink_plane(tmp_path, at, whole.shape) as plane:
        for rect in (Rect(10, 17, 5, 45), Rect(17, 30, 5, 20), Rect(17, 30, 20, 45)):
            plane.mark(rect, whole[rect.slices] > 0)
        assert isinstance(plane, InkPlane)
        for box in (np.s_[...], np.s_[0:10], np.s_[3:40:3, 7:46:2], np.s_[12, 4:9], np.s_[35:, 46:]):
            np.testing.assert_array_equal(plane[box], whole[box])
    assert not list(tmp_path.iterdir())
