"""The body of `python -m zoo.evaluate`: a table on the terminal, and evaluation.json and evaluation.png."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

import zoo
from data_recipes.files import check_writable, whole_file
from data_recipes.fragment import Fragment, open_fragments
from data_recipes.regions import Rect, subtract_all
from data_recipes.resample import resampled
from zoo.evaluate.curves import best_threshold, curves, is_binary
from zoo.evaluate.figures import draw_evaluation
from zoo.evaluate.score import Counted, Evaluation, evaluate, histogram_of, what_counts
from zoo.ink_map import InkMap, open_ink_map, parse_region
from zoo.metrics import InkHistogram
from zoo.surface_dice import SURFACE_TOLERANCE

if TYPE_CHECKING:
    from zoo.evaluate.__main__ import EvaluateOptions

UPPER_BOUND = "chosen on this label: an upper bound, not a result"
MASK = "a binary mask: any threshold gives the same"
_LIBRARIES = ("numpy", "opencv-python-headless", "tifffile", "zarr")


def evaluate_command(options: EvaluateOptions) -> None:
    """As `EvaluateOptions` says. A user's mistake raises ValueError or FileNotFoundError."""
    given = _threshold(options.threshold)
    region = [parse_region(text) for text in options.region]
    ink_map = open_ink_map(options.prediction)
    fragment = _one_fragment(options.fragment)
    if (factor := ink_map.provenance.get("resampled", 1)) != 1:  # the map is at the voxel size of training
        fragment = resampled(fragment, factor)
    predicted = [Rect(*rect) for rect in ink_map.provenance.get("region") or ()]
    counted = what_counts(fragment, ink_map.shape, region or predicted, only=options.only)
    out = options.out or options.prediction.absolute().parent / f"{options.prediction.stem}_evaluation"
    if not options.overwrite:
        _refuse_to_replace(out)
    check_writable(out)

    histogram = histogram_of(ink_map, counted, _track)
    threshold, source = _chosen(given, ink_map, histogram)
    upper = source == UPPER_BOUND
    evaluation = evaluate(ink_map, counted, threshold, histogram=histogram, track=_track)
    notes = [*_notes(ink_map, counted, evaluation, predicted), *_threshold_notes(given, source, histogram)]
    scores = _scores(evaluation)

    console = Console(highlight=False)
    what = f"{options.prediction.name} on {fragment.name}"
    console.print(Text(f"{what}: {_area(evaluation)}"))
    console.print(Text(f"ink is where the probability is {threshold:.10g} or more ({source})"))
    console.print(_table(scores, upper=upper))
    for note in notes:
        console.print(Text(note, "yellow"))
    facts = {
        "prediction": str(options.prediction),
        "fragment": {"name": fragment.name, "path": str(fragment.path)},
        "counted": {
            "only": options.only,
            "rects": [list(rect) for rect in counted.rects],
            "planes": {kind: str(path) for kind, path in fragment.sources.items()},
        },
        "threshold": {"value": threshold, "source": source, "upper_bound": upper},
        "binary_mask": is_binary(histogram),
        "scores": scores,
        "counts": evaluation.counts.__dict__ | {"pixels": histogram.pixels},
        "surface": evaluation.surface.__dict__ | {"tolerance_px": SURFACE_TOLERANCE},
        "curves": {name: _numbers(values) for name, values in curves(histogram)._asdict().items()},
        "reliability": {name: _numbers(values) for name, values in histogram.reliability()._asdict().items()},
        "overlap_px": evaluation.overlap,
        "exact": evaluation.exact,
        "notes": notes,
        "provenance": ink_map.provenance or None,
        "versions": {"inkzoo": zoo.__version__, "python": platform.python_version()}
        | {name: version(name) for name in _LIBRARIES},
    }
    with whole_file(out / "evaluation.json") as partial:
        partial.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    title = f"{what}, ink at {threshold:.10g}" + {UPPER_BOUND: f"\nthreshold {source}", MASK: f"\n{source}"}.get(
        source, ""
    )
    draw_evaluation(evaluation, curves(histogram), title, out / "evaluation.png")
    for name in ("evaluation.json", "evaluation.png"):
        print(out / name)


def _refuse_to_replace(out: Path) -> None:
    """Raise FileExistsError where an evaluation lies in the folder, and say which."""
    file = out / "evaluation.json"
    if not file.exists() and not (out / "evaluation.png").exists():
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        told = f" (Dice {there['scores']['dice']:.4f} at {there['threshold']['value']:.10g})"
    except (OSError, ValueError, LookupError, TypeError):
        told = ""  # another version's, or somebody else's
    raise FileExistsError(f"{out} holds an evaluation already{told}; --overwrite replaces it, another --out keeps both")


def _threshold(text: str | None) -> float | str | None:
    if text is None or text == "best":
        return text
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"--threshold {text}: expected a probability from 0 to 1, or best") from None
    if not 0 <= value <= 1:
        raise ValueError(f"--threshold {text}: expected a probability from 0 to 1, or best")
    return value


def _one_fragment(data: str) -> Fragment:
    found = open_fragments([data])
    if len(found) > 1:
        raise ValueError(f"{data} holds {len(found)} fragments ({', '.join(found)}); give the path of one")
    (fragment,) = found.values()
    return fragment


def _chosen(given: float | str | None, ink_map: InkMap, histogram: InkHistogram) -> tuple[float, str]:
    """The threshold, and in words where it comes from. Never from this label unless that was asked for."""
    if is_binary(histogram):
        return 0.5, MASK
    if isinstance(given, float):
        return given, "given with --threshold"
    if given == "best":
        return best_threshold(histogram), UPPER_BOUND
    if ink_map.threshold is not None:
        return float(ink_map.threshold), "stored with the prediction"
    return 0.5, "not chosen: the prediction holds none; give one with --threshold"


def _threshold_notes(given: float | str | None, source: str, histogram: InkHistogram) -> list[str]:
    """What a person should know of where ink begins in this map."""
    if is_binary(histogram):
        notes = [
            "the prediction is a binary mask, 0 and 1 and nothing between: its AUC, AP and calibration error are of "
            "one threshold that was chosen before, and say little; score the probabilities instead, if you have them"
        ]
        return notes if given is None else [f"--threshold {given} has no effect on a binary mask", *notes]
    if source == UPPER_BOUND:
        return [f"threshold {source}"]
    return []


def _notes(ink_map: InkMap, counted: Counted, evaluation: Evaluation, predicted: Sequence[Rect]) -> list[str]:
    """What a person should know of the map, the label and the numbers. `predicted`: all of the map where empty."""
    fragment = counted.fragment
    notes = list(ink_map.notes)
    if said := ink_map.provenance.get("fragment"):
        notes += [f"predicted on {said}, scored on {fragment.name}"] if said != fragment.name else []
    if predicted and (beside := _share(subtract_all(counted.rects, predicted), counted)):
        notes.append(f"{beside:.0%} of the area scored here was not predicted (--region), and is 0 in the map")
    elif predicted:
        notes.append("the map was predicted in part (--region): nothing else is scored")
    notes += _seen(ink_map, counted)
    notes += [note for note in fragment.notes if "mask:" in note or note.startswith("resampled")]
    counts = evaluation.counts
    if counts.distortion and not counts.mixed_blocks:
        notes.append("no 8×8 block of the label holds both ink and blank (it was drawn in larger ones): DRD has none")
    if not evaluation.exact:
        notes.append(
            f"strokes up to {2 * counts.half_width + 1} px wide: with {evaluation.overlap} px of surroundings, "
            "pseudo-F and centre lines hang in a small part on how the map was cut"
        )
    return notes


def _seen(ink_map: InkMap, counted: Counted) -> list[str]:
    """Whether the models behind the map were trained on what is scored here, as far as its provenance says."""
    name, said = counted.fragment.name, []
    for checkpoint in ink_map.provenance.get("checkpoints") or ():
        model = f"{checkpoint.get('model', 'a model')} ({Path(str(checkpoint.get('path', '?'))).name})"
        seen = checkpoint.get("seen")
        if seen is None:
            said.append(f"{model} does not say where it was trained: whether it has seen this label is not known")
        elif rects := seen.get(name):
            share = 1 - _share(subtract_all(counted.rects, [Rect(*rect) for rect in rects]), counted)
            if share:
                said.append(f"{model} was trained on {share:.0%} of the area scored here: this is no test of it")
    return said


def _share(rects: Sequence[Rect], counted: Counted) -> float:
    """How much of the rectangles that are scored these are."""
    return sum(rect.area for rect in rects) / sum(rect.area for rect in counted.rects)


def _scores(evaluation: Evaluation) -> dict[str, float | None]:
    """Every number of the table; None where there is none."""
    counts, histogram, at = evaluation.counts, evaluation.histogram, evaluation.counts.confusion
    values = {
        "dice": at.fbeta(1),
        "f05": at.fbeta(0.5),
        "iou": at.iou(),
        "accuracy": at.accuracy(),
        "precision": at.precision(),
        "recall": at.recall(),
        "surface_dice": evaluation.surface.dice(),
        "pseudo_f": counts.pseudo_f(),
        "pseudo_precision": counts.pseudo_precision(),
        "pseudo_recall": counts.pseudo_recall(),
        "centre_line_recall": counts.centre_line_recall(),
        "drd": counts.drd(),
        "ap": histogram.ap(),
        "ap_lift": histogram.lift(),
        "auc": histogram.auc(),
        "ece": histogram.calibration_error(),
        "prevalence": histogram.prevalence(),
    }
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


_ROWS = {
    "dice": ("Dice", ""),
    "f05": ("F0.5", "precision counts more"),
    "iou": ("IoU", ""),
    "accuracy": ("pixel accuracy", ""),
    "precision": ("precision", ""),
    "recall": ("recall", ""),
    "surface_dice": ("surface Dice", f"boundaries' share within {SURFACE_TOLERANCE:g} px of the other's"),
    "pseudo_f": ("pseudo-F", "a stroke's core counts more than its rim"),
    "pseudo_precision": ("pseudo-precision", "false ink counts more beside a stroke"),
    "pseudo_recall": ("pseudo-recall", ""),
    "centre_line_recall": ("centre-line recall", "share of the label's skeleton that is found"),
    "drd": ("DRD", "distance reciprocal distortion: 0 is perfect"),
    "ap": ("AP", "average precision, over all thresholds"),
    "ap_lift": ("AP lift", "AP over prevalence: 1 is guessing"),
    "auc": ("AUC", "over all thresholds: 0.5 is guessing"),
    "ece": ("calibration error", "expected, 15 groups: 0 is perfect"),
    "prevalence": ("prevalence", "ink's share of what counts"),
}
_AT_THRESHOLD = 12  # rows that hang on the threshold


def _table(scores: Mapping[str, float | None], *, upper: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for number, (key, (name, told)) in enumerate(_ROWS.items()):
        value = scores[key]
        bound = "≤ " if upper and key == "dice" else ""
        table.add_row(
            name, "–" if value is None else f"{bound}{value:.4f}", told, end_section=number == _AT_THRESHOLD - 1
        )
    return table


def _area(evaluation: Evaluation) -> str:
    rect, pixels = evaluation.picture.rect, evaluation.histogram.pixels
    return f"{pixels / 1e6:,.2f} Mpx count of {rect.height}×{rect.width}"


def _numbers(values: NDArray[Any]) -> list[float | None]:
    """For JSON, which has no NaN; six digits are finer than the thresholds are, and counts stay whole."""
    if values.dtype.kind == "i":
        return values.tolist()
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]


def _track(squares: Sequence[Rect], what: str) -> Iterable[Rect]:
    return track(squares, what, console=Console(stderr=True), transient=True)
