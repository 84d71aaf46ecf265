"""`python -m zoo.evaluate`: numbers against scikit-learn, what counts, thresholds, pictures."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk

from data_recipes.fragment import open_fragment
from data_recipes.regions import Rect
from tests.zoo.evaluate.maps import SHAPE, run, scored, soft, write_planes, write_tiff
from zoo.document_metrics import DocumentCounts
from zoo.evaluate.command import UPPER_BOUND
from zoo.evaluate.curves import curves
from zoo.evaluate.figures import COLOURS, colour_map, draw_dice
from zoo.evaluate.score import evaluate, what_counts
from zoo.ink_map import open_ink_map
from zoo.metrics import InkHistogram
from zoo.surface_dice import surface_counts

# -- numbers -----------------------------------------------------------------------------------------------------------


def test_every_pixel_score_is_that_of_scikit_learn(saved, fragment, planes, prob):
    got = run(saved, fragment, threshold="0.3")["scores"]
    counted = planes["mask"] & planes["supervision_mask"]
    truth, score = planes["inklabels"][counted] > 0, prob[counted]
    ink = score >= 0.3
    precision, recall = sk.precision_score(truth, ink), sk.recall_score(truth, ink)
    expected = {
        "dice": sk.f1_score(truth, ink),
        "f05": sk.fbeta_score(truth, ink, beta=0.5),
        "iou": sk.jaccard_score(truth, ink),
        "accuracy": sk.accuracy_score(truth, ink),
        "precision": precision,
        "recall": recall,
        "ap": sk.average_precision_score(truth, score),
        "ap_lift": sk.average_precision_score(truth, score) / truth.mean(),
        "auc": sk.roc_auc_score(truth, score),
        "prevalence": truth.mean(),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    by_surface = surface_counts(prob >= 0.3, planes["inklabels"] > 0, counted).dice()
    assert got["surface_dice"] == pytest.approx(by_surface) and 0.5 < by_surface < 1
    assert 0.5 < got["pseudo_f"] < 1 and 0.5 < got["centre_line_recall"] <= 1 and got["drd"] > 0


def test_curves_are_those_of_scikit_learn(planes, prob):
    truth = planes["inklabels"] > 0
    got = curves(InkHistogram().add(prob, truth))
    precision, recall, threshold = sk.precision_recall_curve(truth.ravel(), prob.ravel())
    np.testing.assert_allclose(got.threshold[:-1], threshold)
    np.testing.assert_allclose(got.recall, recall)
    np.testing.assert_allclose(got.precision[:-1], precision[:-1])
    assert math.isnan(got.precision[-1]), "nothing is predicted above 1"
    fpr, tpr, _ = sk.roc_curve(truth.ravel(), prob.ravel(), drop_intermediate=False)
    np.testing.assert_allclose(got.false_positive_rate[::-1], fpr)
    np.testing.assert_allclose(got.recall[::-1], tpr)
    dice = [sk.f1_score(truth.ravel(), prob.ravel() >= edge) for edge in threshold]
    np.testing.assert_allclose(got.dice[:-1], dice)


@pytest.mark.parametrize("ink", [0, 1])
def test_curves_of_a_label_of_one_class_have_no_value_where_there_is_none(ink):
    got = curves(InkHistogram().add(np.full((4, 4), 0.7), np.full((4, 4), ink)))
    assert np.isnan(got.false_positive_rate if ink else got.recall).all()
    assert len(got.threshold) == 2 and got.dice[0] == ink


def test_the_reliability_curve_sums_up_to_the_calibration_error(prob, planes):
    histogram = InkHistogram().add(prob, planes["inklabels"])
    got = histogram.reliability()
    error = (np.abs(got.probability - got.ink) * got.pixels).sum() / got.pixels.sum()
    assert error == pytest.approx(histogram.calibration_error()) and got.pixels.sum() == prob.size
    assert (np.diff(got.probability) > 0).all()


def same_counts(got: DocumentCounts, expected: DocumentCounts) -> None:
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(got, name) == pytest.approx(value, rel=1e-9), name


def test_a_map_in_squares_scores_as_the_whole_one(tmp_path):
    fragment = open_fragment("phantom:dipole:3:384")
    assert fragment.label is not None
    np.save(tmp_path / "map.npy", soft(fragment.label[...] > 0, 2, noise=3).astype(np.float16))
    ink_map = open_ink_map(tmp_path / "map.npy")
    counted = what_counts(fragment, ink_map.shape, [Rect(0, 200, 0, 384), Rect(100, 281, 30, 333)])
    whole = evaluate(ink_map, counted, 0.4, square=2048, overlap=128)
    cut = evaluate(ink_map, counted, 0.4, square=64, overlap=128)
    assert whole.exact and cut.exact and 16 < cut.overlap < 128
    assert cut.counts.fp > 100 < cut.counts.fn and cut.counts.centre > 500
    same_counts(cut.counts, whole.counts)
    assert cut.surface == whole.surface and 0 < whole.surface.dice() < 1
    assert cut.histogram == whole.histogram
    for one, other in zip(dataclasses.astuple(cut.picture), dataclasses.astuple(whole.picture), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    less = evaluate(ink_map, counted, 0.4, square=64, overlap=24)
    assert less.overlap == 24 and not less.exact
    assert evaluate(ink_map, counted, 0.4, square=64, overlap=0).surface == whole.surface


def test_the_real_tile_in_squares_scores_as_the_whole_one(real_tile, tmp_path):
    fragment = open_fragment(real_tile)
    assert fragment.label is not None
    np.save(tmp_path / "map.npy", soft(fragment.label[...] > 0, 5, noise=6).astype(np.float16))
    ink_map = open_ink_map(tmp_path / "map.npy")
    counted = what_counts(fragment, ink_map.shape, [Rect(0, 1100, 300, 1400)])
    whole = evaluate(ink_map, counted, 0.5, square=2048)
    cut = evaluate(ink_map, counted, 0.5, square=512, overlap=512)
    assert cut.exact and cut.counts.half_width > 10
    same_counts(cut.counts, whole.counts)
    assert cut.surface == whole.surface


# -- what counts -------------------------------------------------------------------------------------------------------


def test_what_lies_beside_papyrus_and_supervision_never_counts(saved, fragment, planes, prob):
    before = run(saved, fragment)
    beside = ~(planes["mask"] & planes["supervision_mask"])
    np.save(saved, np.where(beside, np.nan, prob))
    write_planes(fragment, inklabels=np.where(beside, 1 - planes["inklabels"], planes["inklabels"]))
    after = run(saved, fragment)
    assert after["counts"] == before["counts"] and after["curves"] == before["curves"]
    assert after["counts"]["pixels"] == (~beside).sum()


def test_regions_and_the_validation_mask_restrict(saved, fragment, planes):
    counted = planes["mask"] & planes["supervision_mask"]
    got = run(saved, fragment, region=("10,100,0,90", "50,120,60,150"))
    inside = np.zeros(SHAPE, bool)
    inside[10:100, :90] = inside[50:120, 60:150] = True
    assert got["counts"]["pixels"] == (counted & inside).sum(), "what two regions share counts once"
    assert len(got["counted"]["rects"]) > 1
    got = run(saved, fragment, only="validation")
    assert got["counts"]["pixels"] == (counted & planes["validation_mask"]).sum()
    assert got["counted"]["only"] == "validation"


def test_a_region_is_scored_as_a_fragment_of_its_own(saved, fragment, planes, prob, tmp_path):
    part = slice(16, 120), slice(24, 200)
    np.save(tmp_path / "part.npy", prob[part])
    alone = write_planes(tmp_path / "part", **{name: plane[part] for name, plane in planes.items()})
    expected = run(tmp_path / "part.npy", alone, out=tmp_path / "alone")["scores"]
    assert run(saved, fragment, region=("16,120,24,200",))["scores"] == pytest.approx(expected)


# -- thresholds and provenance -----------------------------------------------------------------------------------------


def test_the_threshold_is_the_stored_one_unless_another_is_given(tmp_path, fragment, prob, saved, capsys):
    stored = write_tiff(tmp_path / "map.tif", prob, fragment="one", threshold=0.25)
    got = run(stored, fragment)
    assert got["threshold"] == {"value": 0.25, "source": "stored with the prediction", "upper_bound": False}
    assert got["provenance"] == {"fragment": "one", "threshold": 0.25}
    assert run(stored, fragment, threshold="0.6")["threshold"]["value"] == 0.6
    capsys.readouterr()
    assert run(saved, fragment)["threshold"]["value"] == 0.5
    assert "the prediction holds none" in " ".join(capsys.readouterr().out.split())


def test_the_best_threshold_is_called_an_upper_bound_wherever_it_shows(saved, fragment, capsys, titles):
    got = run(saved, fragment, threshold="best")
    assert got["threshold"]["upper_bound"] and any(UPPER_BOUND in note for note in got["notes"])
    assert UPPER_BOUND in " ".join(capsys.readouterr().out.split()) and UPPER_BOUND in titles[0]
    dice = [value for value in got["curves"]["dice"] if value is not None]
    assert got["scores"]["dice"] == pytest.approx(max(dice), abs=1e-5)


@pytest.mark.parametrize("grey", [7, 40, 255, 60_000])
def test_the_best_threshold_is_one_number_on_its_curve_told_in_full(tmp_path, fragment, planes, grey, capsys, titles):
    steps = np.rint(np.clip(soft(planes["inklabels"], 2), 0, 1) * grey) / grey  # few grey values make plateaus
    np.save(tmp_path / "map.npy", (0.2 + 0.5 * steps).astype(np.float32))
    got = run(tmp_path / "map.npy", fragment, threshold="best")
    value, curve = got["threshold"]["value"], got["curves"]
    assert f"probability is {value} or more" in " ".join(capsys.readouterr().out.split())
    assert f"ink at {value}\n" in titles[0] and len(str(value)) <= 8
    at = int(np.searchsorted(curve["threshold"], value))  # the step of the curve that it lies on
    assert curve["dice"][at] == max(curve["dice"])
    assert got["scores"]["dice"] == pytest.approx(max(curve["dice"]), abs=1e-5)
    again = run(tmp_path / "map.npy", fragment, threshold=str(value))
    assert again["scores"] == got["scores"] and again["counts"] == got["counts"]


def test_the_marked_point_lies_on_the_drawn_curve(tmp_path, fragment, planes):
    np.save(tmp_path / "map.npy", np.where(planes["inklabels"] > 0, 0.8, 0.3).astype(np.float32))
    axes = Figure().add_subplot()
    for threshold in (0.1, 0.29, 0.5, 0.79, 0.95):
        found = scored(open_fragment(fragment), tmp_path / "map.npy", threshold)
        axes.clear()
        draw_dice(axes, found, curves(found.histogram))
        line, _, point = axes.get_lines()
        assert line.get_drawstyle() == "steps-pre"
        ((x, y),) = point.get_xydata()
        assert x == threshold and line.get_xdata()[0] == 0
        assert line.get_ydata()[np.searchsorted(line.get_xdata(), x)] == pytest.approx(y)


@pytest.mark.parametrize("kind", ["0 and 255", "0 and 1", "bool", "float", "own"])
@pytest.mark.parametrize("threshold", [None, "best", "0.9"])
def test_a_binary_mask_is_announced_as_one(tmp_path, fragment, planes, kind, threshold, capsys, titles):
    mask = np.roll(planes["inklabels"] > 0, 3, axis=1)
    path = tmp_path / ("map.npy" if kind in ("bool", "float") else "map.png")
    if kind == "own":
        path = write_tiff(tmp_path / "map.tif", mask, fragment="one", threshold=0.25)
    elif path.suffix == ".npy":
        np.save(path, mask.astype(kind))
    else:
        Image.fromarray(mask.astype(np.uint8) * int(kind.split()[-1])).save(path)
    got = run(path, fragment, threshold=threshold)
    assert got["binary_mask"] and got["threshold"]["value"] == 0.5 and not got["threshold"]["upper_bound"]
    told = " ".join(capsys.readouterr().out.split())
    assert "the prediction is a binary mask" in told and "AUC, AP and calibration error" in told
    assert (f"--threshold {threshold} has no effect" in told) == (threshold is not None)
    assert "≤" not in told and "a binary mask" in titles[0]
    truth, counted = planes["inklabels"] > 0, planes["mask"] & planes["supervision_mask"]
    assert got["scores"]["dice"] == pytest.approx(sk.f1_score(truth[counted], mask[counted]))


def test_probabilities_are_not_called_a_mask(saved, fragment):
    got = run(saved, fragment)
    assert not got["binary_mask"] and not any("mask, 0 and 1" in note for note in got["notes"])


def test_what_was_not_predicted_is_not_scored_unless_asked_for(tmp_path, fragment, prob):
    path = write_tiff(tmp_path / "map.tif", prob, fragment="one", threshold=0.5, region=[[0, 150, 0, 110]])
    got = run(path, fragment)
    assert got["counted"]["rects"] == [[0, 150, 0, 110]]
    assert any("predicted in part" in note for note in got["notes"])
    got = run(path, fragment, region=("0,100,100,120",))
    assert any("50% of the area scored here was not predicted" in note for note in got["notes"])


def test_an_evaluation_is_replaced_only_when_asked_for(saved, fragment):
    first = run(saved, fragment, overwrite=False)
    with pytest.raises(
        FileExistsError, match=rf"out holds an evaluation already \(Dice {first['scores']['dice']:.4f} at"
    ):
        run(saved, fragment, threshold="0.3", overwrite=False)
    assert json.loads((saved.parent / "out/evaluation.json").read_text()) == first
    assert run(saved, fragment, threshold="0.3")["threshold"]["value"] == 0.3
    (saved.parent / "out/evaluation.json").write_text("notes of mine")
    with pytest.raises(FileExistsError, match="out holds an evaluation already; --overwrite"):
        run(saved, fragment, overwrite=False)


@pytest.mark.parametrize(
    ("seen", "region", "said"),
    [
        ({"one": [[0, 150, 0, 110]]}, (), "trained on 50% of the area"),
        ({"one": [[0, 150, 0, 110]]}, ("0,150,110,220",), None),
        ({"two": [[0, 150, 0, 110]]}, (), None),
        (None, (), "does not say where it was trained"),
    ],
)
def test_a_map_of_a_model_that_was_trained_here_is_no_test_of_it(tmp_path, fragment, prob, seen, region, said):
    checkpoint = {"path": "/runs/a/last.safetensors", "sha256": "0", "model": "zmean", "seen": seen}
    path = write_tiff(tmp_path / "map.tif", prob, fragment="one", threshold=0.5, checkpoints=[checkpoint])
    notes = [note for note in run(path, fragment, region=region)["notes"] if "zmean (last.safetensors)" in note]
    assert not notes if said is None else said in notes[0]


def test_a_map_of_another_fragment_is_named(tmp_path, fragment, prob):
    path = write_tiff(tmp_path / "map.tif", prob, fragment="another", threshold=0.5)
    assert "predicted on another, scored on one" in run(path, fragment)["notes"]


def test_a_label_of_large_blocks_has_no_drd_and_that_is_said(tmp_path):
    label = np.kron(np.eye(4, dtype=np.uint8), np.ones((16, 16), np.uint8))
    fragment = write_planes(tmp_path / "blocks", inklabels=label)
    np.save(tmp_path / "map.npy", soft(label, 2))
    got = run(tmp_path / "map.npy", fragment)
    assert got["scores"]["drd"] is None and any("DRD has none" in note for note in got["notes"])


def test_a_fragment_without_ink_gives_no_value_where_there_is_none(tmp_path):
    fragment = write_planes(tmp_path / "blank", inklabels=np.zeros((40, 300)))
    np.save(tmp_path / "map.npy", np.zeros((40, 300), np.float32))
    got = run(tmp_path / "map.npy", fragment)["scores"]
    assert got["dice"] == got["pseudo_f"] == got["surface_dice"] == 1 and got["drd"] == 0
    assert got["auc"] is got["ap"] is got["centre_line_recall"] is got["precision"] is None


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_each_pixel_in_its_colour(saved, fragment, planes, prob):
    got = colour_map(scored(open_fragment(fragment), saved, 0.3).picture).astype(int)
    ink, predicted = planes["inklabels"] > 0, prob >= 0.3
    counted = planes["mask"] & planes["supervision_mask"]
    which = {"right": ink & predicted, "missed": ink & ~predicted, "false": predicted & ~ink}
    for name, where in which.items():
        colour = [int(COLOURS[name][at : at + 2], 16) for at in (1, 3, 5)]
        assert (got[where & counted] == colour).all() and (where & counted).any(), name
    rest = got[counted & ~ink & ~predicted]
    assert (rest == rest[:, :1]).all() and rest.std() > 0, "grey, by the probability"
    assert (got[~counted] == got[0, 0]).all() and (got[0, 0] > 240).all()


def test_colours_are_told_apart_by_colour_blind_readers():
    """By the lightness that each has for a reader without red or green receptors (Viénot, Brettel, Mollon 1999)."""
    linear = {
        name: np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]) ** 2.2
        for name, colour in COLOURS.items()
    }
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    for blindness in (protan, deutan):
        seen = [np.clip(blindness @ colour, 0, 1) ** (1 / 2.2) for colour in linear.values()]
        apart = [np.abs(one - other).max() for at, one in enumerate(seen) for other in seen[:at]]
        assert min(apart) > 0.25


@pytest.mark.parametrize("shape", [(60, 1800), (1700, 50)])
def test_maps_of_any_form_are_drawn_reduced(tmp_path, shape, drawn):
    label = np.zeros(shape)
    label[:, : shape[1] // 2] = 1
    fragment = write_planes(tmp_path / "long", inklabels=label)
    np.save(tmp_path / "map.npy", np.full(shape, 0.6, np.float32))
    run(tmp_path / "map.npy", fragment)
    with Image.open(tmp_path / "out" / "evaluation.png") as picture:
        assert max(picture.size) < 3000
    found = scored(open_fragment(fragment), tmp_path / "map.npy", 0.5).picture
    assert max(found.pixels.shape) <= 1600 and found.pixels.sum() == label.size


def test_a_map_at_another_voxel_size_is_scored_on_the_label_at_that_size(tmp_path, fragment, prob):
    double = np.repeat(np.repeat(prob, 2, axis=0), 2, axis=1)
    plain = run(write_tiff(tmp_path / "plain.tif", prob, threshold=0.5), fragment)
    finer = run(write_tiff(tmp_path / "finer.tif", double, threshold=0.5, resampled=2.0), fragment)
    assert finer["scores"]["dice"] == pytest.approx(plain["scores"]["dice"], abs=1e-3)
    assert any("resampled" in note for note in finer["notes"])
