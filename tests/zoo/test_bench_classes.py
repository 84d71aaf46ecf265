"""Suites of several classes: what their map of classes scores, and that a suite of one layer runs to its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from data_recipes.fragment import Fragment, open_fragment, open_fragments
from data_recipes.regions import Rect
from data_recipes.split import Fold
from zoo.bench.classes import ClassCounts
from zoo.bench.leaderboard import QUALITY
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.run import score_stage, train_stage
from zoo.bench.score import score
from zoo.bench.suite import ModelEntry, Suite, load_suite


def one_hot(index: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.moveaxis(np.eye(classes, dtype=np.float32)[index], -1, 0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), present=st.sets(st.integers(0, 2), min_size=1), share=st.sampled_from([0.1, 1.0]))
def test_class_scores_are_scikit_learns(seed: int, present: set[int], share: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice(sorted(present), (9, 11))
    prob = rng.random((3, 9, 11)).astype(np.float32)
    mask = rng.random((9, 11)) < share
    mask[0, 0] = True
    found = ClassCounts(3)
    for band in (slice(0, 4), slice(4, 9)):
        found.add(prob[:, band], label[band], mask[band])
    truth, called = label[mask], prob.argmax(0)[mask]
    there = sorted({*truth, *called})
    each = f1_score(truth, called, average=None, labels=there)
    quality = found.quality()
    assert quality["class_accuracy"] == pytest.approx(accuracy_score(truth, called))
    assert quality["mean_dice"] == pytest.approx(np.mean(each))
    for index in range(3):
        expected = each[there.index(index)] if index in there else np.nan
        assert quality[f"dice_class_{index}"] == pytest.approx(expected, nan_ok=True)


def test_what_cannot_be_counted_is_refused() -> None:
    plane, everywhere = np.zeros((4, 4), np.uint8), np.ones((4, 4), bool)
    with pytest.raises(ValueError, match=r"label holds class 3, the suite has 3 classes \(0 to 2\)"):
        ClassCounts(3).add(one_hot(plane), plane + 3, everywhere)
    assert ClassCounts(3).add(one_hot(plane), plane + 3, ~everywhere).quality() == {}
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*expected \(3, H, W\)"):
        ClassCounts(3).add(one_hot(plane, 2), plane, everywhere)


def page(label: np.ndarray, name: str) -> Fragment:
    everywhere = np.ones(label.shape, bool)
    planes = {"label": label, "other_label": None, "papyrus": everywhere, "supervised": everywhere.copy()}
    return cast(Fragment, SimpleNamespace(name=name, shape=label.shape, **planes))


def test_classes_are_scored_whole_and_by_fragment_without_what_is_not_supervised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 3, (256, 128), np.uint8) for name in "ab"}
    called = {name: np.where(rng.random(label.shape) < 0.8, label, 2 - label) for name, label in labels.items()}
    pages = {name: page(label, name) for name, label in labels.items()}
    called["a"][:, 100:] = (labels["a"][:, 100:] + 1) % 3
    cast(Any, pages["a"].supervised)[:, 100:] = False
    plane = (Rect(0, 256, 0, 128),)
    fold = Fold("f", {}, {"b": plane}, {"a": plane, "b": plane}, 0)

    def predict(fragment: Fragment, rect: Rect) -> np.ndarray:
        return one_hot(called[fragment.name][rect.slices])

    outcome = score(predict, pages, fold, folder=tmp_path, letter_px=32, classes=3)
    ends = {"a": 100, "b": 128}
    counted = {name: (labels[name][:, :end].ravel(), called[name][:, :end].ravel()) for name, end in ends.items()}
    for quality, (truth, map_) in [
        (outcome.per_fragment["a"], counted["a"]),
        (outcome.per_fragment["b"], counted["b"]),
        (outcome.quality, tuple(np.concatenate(pair) for pair in zip(*counted.values(), strict=True))),
    ]:
        assert quality["class_accuracy"] == pytest.approx(accuracy_score(truth, map_))
        assert quality["mean_dice"] == pytest.approx(f1_score(truth, map_, average="macro"))
        assert quality["dice_class_2"] == pytest.approx(f1_score(truth, map_, average=None)[2])
        assert quality["dice"] == pytest.approx(f1_score(truth > 0, map_ > 0))  # ink is all but the background
    one = score(lambda f, r: predict(f, r)[1:].sum(0), pages, fold, folder=tmp_path, letter_px=32)
    assert not {"class_accuracy", "mean_dice", "dice_class_0"} & set(one.quality)
    of_ink = {key: value for key, value in outcome.quality.items() if key != "mean_dice" and "class" not in key}
    assert one.quality == of_ink


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three made-up micrographs of one PNG layer with labels of 0, 128 and 255."""
    home = tmp_path_factory.mktemp("steel")
    rng = np.random.default_rng(0)
    for name in ("01", "02", "03"):
        (home / name / "layers").mkdir(parents=True)
        label = np.kron(rng.integers(0, 3, (6, 6)), np.ones((16, 16), int))
        grey = np.clip(60 + 60 * label + rng.normal(0, 10, label.shape), 0, 255)
        Image.fromarray(grey.astype(np.uint8)).save(home / name / "layers" / "00.png")
        Image.fromarray(np.array([0, 128, 255], np.uint8)[label]).save(home / name / f"{name}_inklabels.png")
        (home / name / "fragment.yaml").write_text("label_values: {0: 0, 128: 1, 255: 2}\ndirection: forward\n")
    return home


def runs(micrographs: Path, fragments: dict[str, Fragment]) -> list[RunSpec]:
    steel = load_suite("steel")
    small = {
        "models": [ModelEntry(name="elunet_enhanced_tiny", options={"levels": 2, "width": 2})],
        "floors": ["allink"],
        "split": steel.split.model_copy(update={"train": ["01"], "calibration": ["02"], "test": ["03"]}),
        "seeds": [0],
        "samples": 8,
        "tile": 32,
        "letter_px": 16,
        "train": {**steel.train, "steps": 2, "batch_size": 4, "augment": None, "precision": "fp32"},
    }
    bench = steel.model_copy(update=small)
    models = resolve_models(bench, None, "cpu")
    data = [str(micrographs)]
    return plan_runs(bench, models, fragments, data=data, device="cpu", seeds=[0], folds=[], train={})


def test_images_of_one_layer_are_trained_and_scored_on_three_classes(micrographs: Path, tmp_path: Path) -> None:
    fragments = open_fragments([str(micrographs)])
    assert all((one.depth, one.shape) == (1, (96, 96)) for one in fragments.values())
    assert np.unique(fragments["01"].label[:, :]).tolist() == [0, 1, 2]  # pyright: ignore[reportOptionalSubscript]
    model, floor = runs(micrographs, fragments)
    result = score_stage(model, tmp_path, train_stage(model, tmp_path))
    for quality in (result.quality, result.per_fragment["03"]):
        each = [quality[f"dice_class_{index}"] for index in range(3)]
        assert quality["mean_dice"] == pytest.approx(np.mean(cast(Any, each)))  # the label holds all three
        assert 0 < cast(float, quality["class_accuracy"]) < 1
    assert {"dice_class_0", "dice_class_1", "dice_class_2"} == set(result.quality) - set(QUALITY)
    assert "mean_dice" not in score_stage(floor, tmp_path, {}).quality  # it has no map of classes


def test_a_label_whose_grey_values_are_not_named_is_refused(micrographs: Path, tmp_path: Path) -> None:
    specs = runs(micrographs, open_fragments([str(micrographs)]))
    for name in ("01", "02", "03"):
        (tmp_path / name).symlink_to(micrographs / name)
    (tmp_path / "01").unlink()
    (tmp_path / "01" / "layers").mkdir(parents=True)
    for file in ("layers/00.png", "01_inklabels.png"):
        (tmp_path / "01" / file).symlink_to(micrographs / "01" / file)
    assert open_fragment(tmp_path / "01").label_values is None
    only = specs[0].model_copy(update={"data": [str(tmp_path / "01")]})
    with pytest.raises(ValueError, match=r"3 classes, 0 to 2, the labels hold \[0, 1\]; state .* label_values"):
        train_stage(only, tmp_path)


def test_a_suite_of_one_class_asks_for_no_map_of_classes() -> None:
    assert Suite(name="s", about="a", models=[ModelEntry(name="sam")]).classes == 1
    assert load_suite("steel").classes == 3
