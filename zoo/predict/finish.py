"""From a store whose shards are all there to the map under its own name, in the forms that were asked for."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zoo
from zoo.ink_map import stored_form
from zoo.predict.export import write_png, write_preview, write_submission, write_tiff
from zoo.predict.plan import Plan
from zoo.predict.pyramid import add_levels, ome_attributes
from zoo.predict.store import PARTIAL, MapStore

FORMS = {".zarr": "zarr", ".tif": "tif", ".tiff": "tif", ".png": "png"}
DEFAULT_THRESHOLD = 0.5


def form_of(out: Path) -> str:
    """zarr, tif or png, by the suffix.

    Raises:
        ValueError: another suffix.
    """
    if out.suffix.lower() not in FORMS:
        raise ValueError(f"{out}: the map's name must end in .zarr, .tif or .png, got {out.suffix or 'no suffix'!r}")
    return FORMS[out.suffix.lower()]


def partial_of(out: Path) -> Path:
    """Where the map lies while it is being made."""
    return out.with_name(out.name + PARTIAL)


def provenance(plan: Plan, threshold: float | None) -> dict[str, Any]:
    """What a map says of itself: all that decided it, and by which versions it was made. No date, so that the same work
    gives the same bytes."""
    import torch

    said = plan.model_dump(mode="json", exclude={"shard", "chunk", "zarr_format"})
    return {
        **said,
        "threshold": threshold,
        "versions": {"inkzoo": zoo.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def finish(
    store: MapStore, out: Path, *, also: Sequence[str], threshold: float | None, said: dict[str, Any]
) -> list[Path]:
    """Add levels and attributes, write every form, and give the map its name; the paths that were written.

    Interrupted, the same call does it again.

    Raises:
        ValueError: shards are missing.
        OSError: something cannot be written; the store is kept.
    """
    import zarr

    if missing := store.missing():
        raise ValueError(f"{store.path}: {len(missing)} of {len(store.grid)} shards are missing")
    plan, main = store.plan, form_of(out)
    group = zarr.open_group(store.path, mode="r+")
    levels = add_levels(group, plan)
    about = {**provenance(plan, threshold), **said}
    group.attrs.update({**ome_attributes(plan, levels), **stored_form(about)})
    finest = group["0"]
    cut = DEFAULT_THRESHOLD if threshold is None else threshold
    forms = list(dict.fromkeys([main, *also]))
    paths = {form: out if form == main else beside(out, SUFFIXES[form]) for form in forms}
    preview = beside(out, "_preview.png")
    write_preview(preview, [group[str(level)] for level in range(levels)], about)
    if "tif" in paths:
        write_tiff(paths["tif"], finest, about)
    if "png" in paths:
        write_png(paths["png"], finest, about)
    if "mask" in paths:
        write_png(paths["mask"], finest, {**about, "threshold": cut}, cut)
    if "csv" in paths:
        write_submission(paths["csv"], finest, plan.fragment, cut)
    if "zarr" in paths:  # last: it takes the store away
        _settle(store, paths["zarr"])
    else:
        shutil.rmtree(store.path)
    return [*paths.values(), preview]


SUFFIXES = {"zarr": ".zarr", "tif": ".tif", "png": ".png", "mask": "_mask.png", "csv": ".csv"}


def beside(out: Path, ending: str) -> Path:
    """`x.zarr` and `_mask.png` -> `x_mask.png`."""
    return out.with_name(out.stem + ending)


def _settle(store: MapStore, out: Path) -> None:
    """Give a finished store its name. The record goes last, so that whatever happens the map is whole or unfinished."""
    if out.exists():
        raise FileExistsError(f"{out}: exists already; the map lies complete in {store.path}")
    store.path.rename(out)
    MapStore(out, store.plan).close_record()
