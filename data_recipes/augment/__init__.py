"""Augmentation of a batch on its own device: one draw of parameters, applied to tile, label and mask alike.

Everything is drawn a sample, vectorised over the batch, and the same for all layers of a tile, so that what lies above
what stays above it. Settings and named sets (`light`, `ink`, `steel`) need no torch; only the work itself loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import AugmentSettings, list_sets, load_set

if TYPE_CHECKING:
    from torch import Generator

__all__ = ["AugmentSettings", "augment", "list_sets", "load_set"]


def augment(
    batch: dict[str, Any],
    generator: Generator,
    settings: AugmentSettings,
    *,
    classes: int = 1,
    rows: slice = slice(None),
    of: int | None = None,
) -> dict[str, Any]:
    """A batch of `volume` (B,1,D,H,W), `label` and `mask` (B,1,H,W), transformed; other entries pass through.

    A pure function: the batch given is left alone, and the result follows from it, the generator's state and the
    settings. `generator` is a CPU generator: the draws are then the same on every device, save the values of `noise`,
    which are drawn on the batch's device from a seed that is drawn on the CPU.

    Labels and masks are moved or taken from the nearest pixel, never blended, so they keep their values and types; a
    pixel that comes from outside the tile is not in the mask. Only `mixup` makes the label float32, the share of ink.
    Where the batch has a `task` (B,), `mixup` and `cutmix` mix tiles of one task only.

    Args:
        classes: as the model was built; `mixup` needs 1.
        rows, of: this batch is those rows of one of `of` tiles, which several processes share. The draws are those that
            one process would make for the whole, save that `mixup` and `cutmix` mix within the rows at hand.

    Raises:
        ValueError: tensors that do not belong together; quarter turns of tiles that are not square; mixup of several
            classes.
    """
    from .apply import augment as apply  # here, because torch takes seconds to load and settings need none of it

    return apply(batch, generator, settings, classes=classes, rows=rows, of=of)
