"""Any fragment to one sharded zarr v3 that a random 64×256×256 tile reads from fast, whole or not at all.

A conversion is written to `DST.zarr.partial`, shard by shard, each noted when it is done; the same command continues
where it was interrupted, and the final name appears only when everything is there.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.files import check_writable, whole_file
from data_recipes.formats.arrays import LazyArray
from data_recipes.formats.remote import RemotePath
from data_recipes.formats.stack import PLANES
from data_recipes.formats.zarr import OURS, is_zarr
from data_recipes.fragment import Fragment, open_fragment

Size = tuple[int, int, int]
MAX_CHUNK_Z, MAX_SHARD_Z = 16, 80  # layers
PLANE_CHUNK, PLANE_SHARD = 256, 4096
_PLAN, _DONE = "convert.json", "convert.done"


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to_uint8: str | None = None,
    chunk: Size | None = None,
    shard: Size | None = None,
    progress: bool = True,
) -> Path:
    """Write the fragment at `src` to `dst`, with its planes and all that is known of it.

    Args:
        src: whatever `open_fragment` opens.
        dst: a path that ends in `.zarr` and does not exist yet.
        to_uint8: `high_byte` or `clip:LO:HI` to store 16 bits as 8; None stores what is there.
        chunk: (Z, Y, X) that is decoded at once; by default up to 16 layers, for models read 12 to 30 of a volume's 65,
            and 128×128 px.
        shard: (Z, Y, X) of one file, a multiple of the chunk; by default all layers up to 80, and 1024×1024 px.
        progress: draw a bar on stderr.

    Returns:
        The path written.

    Raises:
        FileExistsError: `dst` exists.
        ValueError: no volume, sizes that do not fit, a conversion that was begun with other settings.
    """
    dst = Path(os.path.abspath(Path(dst).expanduser()))
    if dst.suffix != ".zarr":
        raise ValueError(f"{dst.name}: the destination's name must end in .zarr")
    if dst.exists():
        raise FileExistsError(f"{dst}: exists already; remove it or choose another name")
    fragment = open_fragment(src)
    if fragment.volume is None:
        raise ValueError(f"{fragment.path}: labels without layers; there is no volume to convert")
    plan = _plan(fragment, to_uint8, chunk, shard)
    partial = dst.with_name(dst.name + ".partial")
    check_writable(dst.parent, "destination")
    with _claim(partial, plan) as done:
        _write(fragment, partial, plan, done, progress)
        for name in (_DONE, _PLAN):  # in this order: a plan without a journal starts over, the reverse would not
            (partial / name).unlink()
    if dst.exists():
        raise FileExistsError(f"{dst}: appeared meanwhile; the conversion lies complete in {partial}")
    partial.rename(dst)
    return dst


def _plan(fragment: Fragment, to_uint8: str | None, chunk: Size | None, shard: Size | None) -> dict[str, Any]:
    """Everything that decides what is written: JSON, so that a later run can compare it."""
    from data_recipes.tiles import parse_to_uint8

    volume = fragment.volume
    assert volume is not None
    how = None if to_uint8 in (None, "none") else to_uint8
    if how is not None:
        parse_to_uint8(how)
        if volume.dtype == np.uint8:
            raise ValueError(f"{fragment.path}: is stored as uint8 already; leave --to-uint8 out")
    depth, height, width = volume.shape
    if chunk is None:
        across = (shard[1], shard[2]) if shard else (128, 128)
        layers = math.ceil(depth / math.ceil(depth / MAX_CHUNK_Z))
        if shard:
            layers = next((n for n in range(min(shard[0], MAX_CHUNK_Z), 0, -1) if shard[0] % n == 0), 0)
        chunk = (layers, min(128, across[0]), min(128, across[1]))
    if min(chunk) < 1 or (shard and min(shard) < 1):
        raise ValueError(f"chunk {chunk}, shard {shard}: every side must be at least 1")
    if shard is None:
        room = (max(1, 1024 // chunk[1]), max(1, 1024 // chunk[2]))
        needed = (math.ceil(height / chunk[1]), math.ceil(width / chunk[2]))
        deep = min(math.ceil(depth / chunk[0]), max(1, MAX_SHARD_Z // chunk[0]))
        shard = (chunk[0] * deep, chunk[1] * min(room[0], needed[0]), chunk[2] * min(room[1], needed[1]))
    if any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise ValueError(f"shard {_size(shard)} is no multiple of chunk {_size(chunk)} on every axis")
    return {
        "source": str(fragment.path),
        "stamp": _stamp(fragment),
        "format": fragment.format,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "to_uint8": how,
        "chunk": list(chunk),
        "shard": list(shard),
        "planes": sorted(fragment.sources),
        "fragment": _settings(fragment, how),
    }


def _settings(fragment: Fragment, how: str | None) -> dict[str, Any]:
    """What the copy says of itself: only what is known, so that what was unknown stays announced as unknown."""
    known = {
        "name": fragment.name,
        "voxel_um": fragment.voxel_um,
        "direction": fragment.direction,
        "center_layer": fragment.center_layer,
        "to_uint8": how or fragment.to_uint8,
        "purpose": fragment.purpose,
    }
    stated = {key: value for key, value in known.items() if value is not None and key not in fragment.unknown}
    if fragment.label_values:
        stated["label_values"] = {str(i): i for i in sorted(set(fragment.label_values.values()))}
    return stated


def _stamp(fragment: Fragment) -> list[int]:
    """[files, bytes, newest change in ns] of the source, so that a changed source is not continued from.

    Of a remote one the files are its metadata, and a checksum of them stands for the change.
    """
    if isinstance(fragment.path, RemotePath):
        return fragment.path.stamp()
    files = [fragment.path] if fragment.path.is_file() else []
    for folder in (fragment.path, fragment.path / "layers", fragment.path / "surface_volume"):
        if folder.is_dir():
            files += [f for f in folder.iterdir() if f.is_file() and not f.name.endswith(".partial")]
    files += [f for f in fragment.sources.values() if isinstance(f, Path) and f.is_file()]
    states = [f.stat() for f in dict.fromkeys(files)]
    return [len(states), sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)]


@contextmanager
def _claim(partial: Path, plan: dict[str, Any]) -> Iterator[set[str]]:
    """Own the partial folder while writing; yields the shards that an earlier run finished."""
    partial.mkdir(parents=True, exist_ok=True)
    with open(partial / _DONE, "a+", encoding="ascii") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{partial}: another conversion is writing there; wait for it") from None
        begun = partial / _PLAN
        if begun.is_file():
            was = json.loads(begun.read_text())
            differs = sorted(key for key in plan if was.get(key) != plan[key])
            if differs:
                told = ", ".join(f"{key} ({was.get(key)} → {plan[key]})" for key in differs)
                raise ValueError(f"{partial}: was begun with another {told}; remove it, or repeat the first command")
        else:
            journal.truncate(0)
            with whole_file(begun) as draft:
                draft.write_text(json.dumps(plan, indent=1), encoding="utf-8")
        journal.seek(0)
        yield {line.strip() for line in journal if line.endswith("\n")}


def _write(fragment: Fragment, partial: Path, plan: dict[str, Any], done: set[str], progress: bool) -> None:
    import zarr

    from data_recipes.tiles import to_uint8

    assert fragment.volume is not None
    group = zarr.open_group(partial, mode="a", zarr_format=3)
    shape, how = tuple(plan["shape"]), plan["to_uint8"]
    volume = _array(group, "0", shape, "uint8" if how else plan["dtype"], plan["chunk"], plan["shard"], "zyx")
    todo = [("0", box) for box in _boxes(shape, plan["shard"])]
    outputs, inputs = {"0": volume}, {"0": fragment.volume}
    for kind in plan["planes"]:
        source = _planes(fragment)[kind]
        side = min(PLANE_SHARD, PLANE_CHUNK * math.ceil(max(source.shape) / PLANE_CHUNK))
        key = f"{PLANES}/{kind}"
        outputs[key] = _array(group, key, source.shape, "uint8", [PLANE_CHUNK] * 2, [side] * 2, "yx")
        inputs[key] = source
        todo += [(key, box) for box in _boxes(source.shape, (side, side))]
    with (
        open(partial / _DONE, "a", encoding="ascii") as journal,
        _bar(progress, fragment.name) as advance,
        _shard_before_stopping() as stop_if_asked,
    ):
        total = sum(_bytes(inputs[key], box) for key, box in todo)
        for key, box in todo:
            mark = f"{key} " + " ".join(str(s.start) for s in box)
            if mark not in done:
                block = inputs[key][box]
                outputs[key][box] = to_uint8(block, how or "none") if key == "0" else block.astype(np.uint8)
                journal.write(mark + "\n")
                journal.flush()
                stop_if_asked()
            advance(_bytes(inputs[key], box), total)
    group.attrs.update(_attributes(fragment, plan))


def _array(group: Any, name: str, shape: Any, dtype: Any, chunk: Any, shard: Any, axes: str) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec

    if name in group:
        return group[name]
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunk),
        shards=tuple(shard),
        # CT noise leaves little to gain: what zstd saves more, a twentieth, costs twice to ten times the decoding; the
        # checksum: a bit that flips on the way or in a store is noticed, not predicted from
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        dimension_names=tuple(axes),
    )


def _planes(fragment: Fragment) -> dict[str, LazyArray]:
    planes = {
        "mask": fragment.papyrus,
        "inklabels": fragment.label,
        "other_label": fragment.other_label,
        "supervision_mask": fragment.supervised,
        "validation_mask": fragment.validation,
    }
    return {kind: plane for kind, plane in planes.items() if plane is not None}


def _attributes(fragment: Fragment, plan: dict[str, Any]) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata, and ours: what is known of the fragment and how its 16 bits became 8."""
    um = fragment.voxel_um
    axis = {"type": "space", **({"unit": "micrometer"} if um else {})}
    scale = {"type": "scale", "scale": [um or 1.0] * 3}
    bits = {
        None: f"stored as in the source ({plan['dtype']})",
        "high_byte": "high byte of 16 bits: value >> 8",
    }.get(plan["to_uint8"], f"{plan['to_uint8']}: LO … HI of 16 bits mapped linearly to 0 … 255, rounded, clipped")
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {
                    "name": fragment.name,
                    "axes": [{"name": name, **axis} for name in "zyx"],
                    "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
                }
            ],
        },
        OURS: {
            "fragment": plan["fragment"],
            "intensities": bits,
            "planes": plan["planes"],
            "source": {key: plan[key] for key in ("source", "format", "dtype")},
        },
    }


def _boxes(shape: Any, step: Any) -> list[tuple[slice, ...]]:
    corners = product(*(range(0, side, by) for side, by in zip(shape, step, strict=True)))
    return [
        tuple(slice(at, min(at + by, side)) for at, by, side in zip(corner, step, shape, strict=True))
        for corner in corners
    ]


def _bytes(array: LazyArray, box: tuple[slice, ...]) -> int:
    return math.prod(s.stop - s.start for s in box) * array.dtype.itemsize


@contextmanager
def _shard_before_stopping() -> Iterator[Callable[[], None]]:
    """The first Ctrl-C waits for the shard being written, the second does not. Yields what raises it then."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield lambda: None
        return
    asked = False

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(show: bool, name: str) -> Iterator[Any]:
    """A progress bar on stderr; yields what is called with (bytes more, bytes in all)."""
    if not show:
        yield lambda more, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda more, total: bar.update(task, advance=more, total=total)


def _size(size: Any) -> str:
    return "×".join(map(str, size))


def run(src: str, dst: str, *, to_uint8: str | None, chunk: Size | None, shard: Size | None, quiet: bool) -> None:
    """Body of `python -m data_recipes convert`."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    partial = Path(dst.rstrip("/") + ".partial").expanduser()
    if (partial / _PLAN).is_file() and not is_zarr(Path(dst).expanduser()) and not quiet:
        console.print(f"continuing the conversion in {escape(str(partial))}")
    try:
        written = convert(src, dst, to_uint8=to_uint8, chunk=chunk, shard=shard, progress=not quiet)
    except KeyboardInterrupt:
        console.print(f"what is done stays in {escape(str(partial))}; the same command continues it")
        raise
    fragment = open_fragment(written)
    assert fragment.volume is not None
    if not quiet:
        told = f"{_size(fragment.volume.shape)} {fragment.volume.dtype}"
        how = f", 16 bits became 8 by {fragment.to_uint8}" if to_uint8 else ""
        console.print(f"[bold green]written[/] {escape(str(written))}: {told}{escape(how)}")
