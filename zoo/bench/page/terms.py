"""The names under which the page shows a measure, what each means, and how it is written."""

from __future__ import annotations

from typing import NamedTuple


class Term(NamedTuple):
    """`title` heads a column, `about` explains it, `views` are the selections of columns that hold it; none: no column.

    A value is written as `pattern` of value × `scale`. `low` marks measures of which less is better.
    """

    title: str
    about: str = ""
    views: tuple[str, ...] = ()
    pattern: str = "{:.4g}"
    scale: float = 1.0
    unit: str = ""
    low: bool = False

    @property
    def long(self) -> str:
        """The title, or what it means where that is short."""
        return self.about if self.about and len(self.about) <= 40 else self.title


_MAIN, _QUALITY, _COST = ("main", "quality"), ("quality",), ("cost",)
_SHARE = "{:.3f}"

TERMS = {
    "dice": Term("Dice", "", (), _SHARE),
    "seed_sd": Term("seed SD", "standard deviation of Dice over seeds", _QUALITY, _SHARE, low=True),
    "surface_dice": Term("surface Dice", "share of boundaries within 8 px of the other's", _QUALITY, _SHARE),
    "pseudo_f": Term("pseudo-F", "F that weighs strokes, not pixels", _QUALITY, _SHARE),
    "centre_line_recall": Term("centre lines", "share of strokes' centre lines that is found", _QUALITY, _SHARE),
    "class_accuracy": Term("class accuracy", "share of pixels whose class is right", _QUALITY, _SHARE),
    "mean_dice": Term("mean Dice", "mean of all classes' Dice", _QUALITY, _SHARE),
    "f05": Term("F0.5", "F with precision weighing twice as much as recall", _QUALITY, _SHARE),
    "iou": Term("IoU", "intersection over union of ink", _QUALITY, _SHARE),
    "accuracy": Term("accuracy", "share of pixels called rightly", _QUALITY, _SHARE),
    "auc": Term("AUC", "area under the ROC curve over pixels; .5 says nothing", _MAIN, _SHARE),
    "auc_blocks": Term("AUC 16 px", "AUC over blocks of 16 px", _QUALITY, _SHARE),
    "auc_rows": Term(
        "AUC in rows", "AUC of blocks within their own row: what the lines' layout cannot give", _QUALITY, _SHARE
    ),
    "ap": Term("AP", "average precision", _MAIN, _SHARE),
    "ap_lift": Term("lift", "AP over the share of ink; 1 says nothing", _QUALITY, "{:.2f}"),
    "ece": Term("ECE", "expected calibration error", _QUALITY, _SHARE, low=True),
    "prevalence": Term("ink", "share of ink among the pixels that count", (), "{:.1f} %", 100),
    "null_high": Term("null 97.5 %", "97.5th percentile of the block AUC of its own map, shifted", _QUALITY, _SHARE),
    "null_auc": Term("AUC of null", "block AUC of the runs that have such a null", (), _SHARE),
    "false_ink_on_blank": Term(
        "false ink", "share of blank papyrus that is called ink", _QUALITY, "{:.2f} %", 100, low=True
    ),
    "calibration_dice": Term("Dice, calibration", "Dice where the threshold was chosen", (), _SHARE),
    "threshold": Term("threshold", "chosen on the training side", (), _SHARE),
    "leak": Term("leak, px", "test pixels seen in training"),
    "parameters": Term("parameters", "parameters", _COST, "{:.2f} M", 1e-6, low=True),
    "train_mb": Term("train MB", "peak memory of training", ("main", "cost"), "{:,.0f}", low=True),
    "inference_mb": Term("infer MB", "peak memory of inference", _COST, "{:,.0f}", low=True),
    "step_seconds": Term("s/step", "seconds a training step", ("main", "cost"), "{:#.3g}", 1, " s", low=True),
    "tile_flops": Term("GFLOPs", "FLOPs of a tile, forward", _COST, "{:.3g}", 1e-9, " G", low=True),
    "tiles_per_second": Term("tiles/s", "tiles a second at inference", _COST, "{:.3g}", 1, " tiles/s"),
    "megapixels_per_second": Term("MP/s", "megapixels a second at inference", _COST, "{:.3g}", 1, " MP/s"),
    "train_36000_tiles_hours": Term("36k h", "training steps on 36,000 tiles", _COST, "{:.3g}", 1, " h", low=True),
    "kaggle_fragment_hours": Term("Kaggle h", "predicting all of 8181 × 6330 px", _COST, "{:.3g}", 1, " h", low=True),
    "train_joules_per_1000_tiles": Term(
        "train J", "energy of training on 1,000 tiles", _COST, "{:,.0f}", 1, " J", low=True
    ),
    "inference_joules_per_1000_tiles": Term(
        "infer J", "energy of predicting 1,000 tiles", _COST, "{:,.0f}", 1, " J", low=True
    ),
    "steps": Term("steps", "training steps", _COST, "{:,.0f}", low=True),
    "train_seconds": Term("train s", "seconds of training", _COST, "{:,.0f}", 1, " s", low=True),
    "step_flops": Term("step GFLOPs", "FLOPs of a training step", (), "{:.3g}", 1e-9, " G", low=True),
    **{
        f"batch_in_{size}_gb": Term(f"batch, {size} GB", f"batch of training that fits {size} GB", (), "{:,.0f}")
        for size in (12, 16, 24, 80)
    },
    "seconds_per_megapixel": Term("s/MP", "seconds a megapixel at inference", (), "{:.3g}", low=True),
    "parameters_trained": Term("", "parameters that are trained", (), "{:.2f} M", 1e-6),
    "batch_seconds": Term("", "seconds a batch at inference", (), "{:.3g}", 1, " s"),
    "batch_size": Term("", "tiles a batch", (), "{:,.0f}"),
    "train_bytes": Term("", "peak memory of training", (), "{:,.0f}", 2**-20, " MB"),
    "train_bytes_reserved": Term("", "reserved in training", (), "{:,.0f}", 2**-20, " MB"),
    "inference_bytes": Term("", "peak memory of inference", (), "{:,.0f}", 2**-20, " MB"),
    "inference_bytes_reserved": Term("", "reserved at inference", (), "{:,.0f}", 2**-20, " MB"),
    "memory_kind": Term("kind of memory"),
    "budget": Term("budget"),
    "samples": Term("samples", "tiles seen in training", (), "{:,.0f}"),
    "train_flops": Term("", "FLOPs of the training", (), "{:.4g}", 1e-12, " T"),
    "wall_seconds": Term("", "training and scoring, from start to end", (), "{:,.0f}", 1, " s"),
    "run_step_seconds": Term("", "a training step, with reading tiles", (), "{:.3g}", 1, " s"),
    "run_train_bytes": Term("", "peak memory of the training", (), "{:,.0f}", 2**-20, " MB"),
    "run_train_bytes_reserved": Term("", "reserved in the training", (), "{:,.0f}", 2**-20, " MB"),
    "run_inference_bytes": Term("", "peak memory of the prediction", (), "{:,.0f}", 2**-20, " MB"),
    "run_inference_bytes_reserved": Term("", "reserved in the prediction", (), "{:,.0f}", 2**-20, " MB"),
    "run_inference_seconds": Term("", "seconds of the prediction", (), "{:.3g}", 1, " s"),
    "run_inference_pixels": Term("", "pixels predicted", (), "{:.3g} M", 1e-6),
    "run_megapixels_per_second": Term("", "prediction, with reading and blending", (), "{:.3g}", 1, " MP/s"),
    "inference_seconds": Term("", "seconds of inference", (), "{:.3g}", 1, " s"),
}

FLOOR_NOTES = {
    "allink": "Everything is called ink. It needs no volume.",
    "layout": "The ink frequency of each row and column of the training region. It needs no volume.",
}
