"""Losses by name and weight; each of them ignores what lies outside the supervised papyrus, exactly.

Shapes: B tiles, C classes (1: sigmoid, ink is label > 0; more: softmax, background is class 0), H×W pixels of a tile,
h×w cells of one head. Everything is computed in float32, whatever precision the model runs in.

- At each head's own size: all but `ms_ssim`. Labels are pooled to it by area over the supervised pixels, so a cell's
  label is its share of ink; a cell counts where at least half of it is supervised. `lovasz` and `boundary` need one
  class a cell, and take that of the largest share. Deep supervision is the mean over the heads.
- Pixel losses (`focal`, `bce`, `soft_bce`) and `boundary` average over the counted cells of the whole batch; `jaccard`,
  `dice` and `tversky` sum over them before the one division, which keeps tiles without ink from dominating, and
  `lovasz` sorts them all. A class that the batch does not hold contributes nothing to these
  (segmentation_models_pytorch's convention; `lovasz` of one class has its worst cell): pixel losses carry empty
  batches. `cldice` is the mean over tiles, since a skeleton is a tile's.
- `ms_ssim` is taken at full resolution on the finest head (see `masked_ms_ssim`).
- `iou` and `presence` read what a model predicts besides its masks, `Heads.aux`. A model that does has them with
  weight 1 unless the loss names them; 0 switches one off.
- Where aux has `masks`, several candidates for one class, each tile trains the candidate whose weighted total of the
  losses at its own size is lowest, in place of the first logits; the others get no gradient (SAM's rule).
"""

from zoo.losses.auxiliary import actual_iou
from zoo.losses.cells import masked_mean, pool_to
from zoo.losses.ink_loss import InkLoss, make_loss
from zoo.losses.spec import (
    AUX_LOSSES,
    DEFAULT_LOSS,
    LOSSES,
    PARAMETERS,
    PIXEL_LOSSES,
    PRESETS,
    REGION_LOSSES,
    Spec,
    Term,
    parse_spec,
)
from zoo.losses.ssim import masked_ms_ssim, ssim_plan
from zoo.losses.terms import signed_distance

__all__ = [
    "AUX_LOSSES",
    "DEFAULT_LOSS",
    "LOSSES",
    "PARAMETERS",
    "PIXEL_LOSSES",
    "PRESETS",
    "REGION_LOSSES",
    "InkLoss",
    "Spec",
    "Term",
    "actual_iou",
    "make_loss",
    "masked_mean",
    "masked_ms_ssim",
    "parse_spec",
    "pool_to",
    "signed_distance",
    "ssim_plan",
]
