"""Predicting shards: one thread reads ahead, this one computes, one blends and writes behind.

Each group of tiles is read and computed once, and kept for the shards that it touches still. Shards are walked in
strips, so that what is kept grows with a strip's width and not with the fragment's; what crosses from one strip into
the next is computed again.
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_recipes.fragment import Fragment
from data_recipes.tiles import InputContract
from zoo.predict.grid import Corner, Grid, Group
from zoo.predict.store import MapStore

STRIP = 16  # shards
_READ_AHEAD = 2  # groups
_ASK_SECONDS = 0.5  # between two looks at whether to stop

Maps = dict[Corner, NDArray[np.float32]]
Compute = Callable[[NDArray[np.integer]], NDArray[np.float32]]


@dataclass
class Timings:
    """Seconds in which the computing thread computed, waited for data, and waited for the writer; tiles computed."""

    compute: float = 0.0
    read: float = 0.0
    write: float = 0.0
    tiles: int = 0


class Step(NamedTuple):
    """A shard, the groups to be computed for it, all that touch it, and those that nothing needs after it."""

    shard: int
    new: list[Group]
    groups: list[Group]
    last: list[Group]


class Block(NamedTuple):
    """What was read for a group: the tiles that hold papyrus, and layers as stored, (D, H, W) from `y`, `x` on."""

    corners: list[Corner]
    y: int
    x: int
    layers: NDArray[np.integer] | None


def schedule(grid: Grid, shards: Iterable[int], strip: int = STRIP) -> Iterator[Step]:
    """The shards in the order in which they are made, strip by strip, row by row."""

    def strip_of(shard: int) -> int:
        return shard % grid.shards_across // strip

    todo = sorted(shards, key=lambda shard: (strip_of(shard), shard))
    for number in dict.fromkeys(map(strip_of, todo)):
        own = [shard for shard in todo if strip_of(shard) == number]
        needed: dict[Group, int] = {}
        for shard in own:
            for group in grid.groups(shard):
                needed[group] = shard  # the last one wins: after it the group is not needed
        known: set[Group] = set()
        for shard in own:
            groups = list(grid.groups(shard))
            new = [group for group in groups if group not in known]
            known.update(new)
            yield Step(shard, new, groups, [group for group in groups if needed[group] == shard])


def read_block(fragment: Fragment, contract: InputContract, grid: Grid, group: Group, *, layers: bool = True) -> Block:
    """Read what a group needs, all at once: the same request whoever makes it."""
    side, box = grid.rows.side, grid.box(group)
    papyrus = fragment.papyrus[box.slices]
    corners = [
        corner
        for corner in grid.corners(group)
        if papyrus[corner.y - box.y0 : corner.y - box.y0 + side, corner.x - box.x0 : corner.x - box.x0 + side].any()
    ]
    read = layers and bool(corners)
    stored = contract.read(fragment, box.y0, box.x0, box.height, box.width) if read else None
    return Block(corners, box.y0, box.x0, stored)


def probe(fragment: Fragment, contract: InputContract, grid: Grid, tiles: int = 2) -> NDArray[np.integer] | None:
    """Up to `tiles` tiles, (B, D, side, side) as stored, from the shard closest to the middle that has papyrus."""
    for shard in sorted(range(len(grid)), key=lambda shard: abs(shard - len(grid) // 2)):
        for group in grid.groups(shard):
            corners = read_block(fragment, contract, grid, group, layers=False).corners
            if corners:
                some = corners[len(corners) // 2 :][:tiles]
                side = grid.rows.side
                return np.stack([contract.read(fragment, corner.y, corner.x, side, side) for corner in some])
    return None


def predict_shards(
    store: MapStore,
    fragment: Fragment,
    contract: InputContract,
    compute: Compute,
    shards: Sequence[int],
    *,
    on_progress: Callable[[float], None] = lambda pixels: None,
    stop: Callable[[], bool] = lambda: False,
) -> Timings:
    """Predict the shards of a map that are not done yet, and write them.

    Args:
        contract: what is read; its tile is the plan's.
        compute: (B, D, side, side) as stored -> (B, side, side) probability.
        shards: the shards of this part.
        on_progress: called with the pixels done, of those of `shards`, after every batch.
        stop: asked after every batch; KeyboardInterrupt is raised where it says so, with all whole shards kept.

    Raises:
        ValueError, OSError: what cannot be read or written; what is done is kept.
    """
    grid, plan, timings = store.grid, store.plan, Timings()
    todo = [shard for shard in shards if not store.is_done(shard)]
    finished = float(sum(grid.rect(shard).area for shard in shards if store.is_done(shard)))
    on_progress(finished)
    steps = list(schedule(grid, todo))
    order = iter([group for step in steps for group in step.new])
    ahead: deque[Future[Block]] = deque()
    written: deque[Future[None]] = deque()
    live: dict[Group, Maps] = {}

    def asked() -> None:
        if stop():
            raise KeyboardInterrupt

    def waited(future: Future) -> tuple[float, object]:
        began = time.perf_counter()
        while not wait([future], _ASK_SECONDS).done:
            asked()
        return time.perf_counter() - began, future.result()

    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    try:
        for step in steps:
            area = grid.rect(step.shard).area
            for number, group in enumerate(step.new):
                while len(ahead) < _READ_AHEAD and (upcoming := next(order, None)) is not None:
                    ahead.append(reader.submit(read_block, fragment, contract, grid, upcoming))
                asked()
                seconds, block = waited(ahead.popleft())
                timings.read += seconds
                assert isinstance(block, Block)
                live[group] = kept = dict(zip(block.corners, _room(len(block.corners), plan.tile), strict=True))
                for share, batch in _batches(block.corners, plan.batch_size):
                    began = time.perf_counter()
                    maps = compute(_stack(block, batch, plan.tile))
                    timings.compute += time.perf_counter() - began
                    timings.tiles += len(batch)
                    for corner, values in zip(batch, maps, strict=True):
                        kept[corner][:] = values
                    on_progress(finished + area * (number + share) / len(step.new))
                    asked()
            maps = {corner: values for group in step.groups for corner, values in live[group].items()}
            written.append(writer.submit(_finish, store, fragment, step.shard, maps))
            while len(written) > 1:
                seconds, _ = waited(written.popleft())
                timings.write += seconds
            for group in step.last:
                del live[group]
            finished += area
            on_progress(finished)
        for future in written:
            timings.write += waited(future)[0]
    finally:
        reader.shutdown(wait=False, cancel_futures=True)  # a server that does not answer holds up no interruption
        writer.shutdown()
    return timings


def _room(tiles: int, side: int) -> NDArray[np.float32]:
    """(tiles, side, side) of memory of its own, which goes back to the system as a whole.

    From the heap, maps that stay would lie scattered between activations that go, and keep the gaps from being given
    back: the peak would grow with the number of shards.
    """
    if not tiles:
        return np.empty((0, side, side), np.float32)
    return np.frombuffer(mmap.mmap(-1, tiles * side * side * 4), np.float32).reshape(tiles, side, side)


def _batches(corners: list[Corner], most: int) -> Iterator[tuple[float, list[Corner]]]:
    """The tiles of a group in as few batches as it takes, of equal size up to one; the share done with each."""
    count = -(-len(corners) // most)
    for number in range(count):
        batch = corners[len(corners) * number // count : len(corners) * (number + 1) // count]
        yield (number + 1) / count, batch


def _stack(block: Block, corners: list[Corner], side: int) -> NDArray[np.integer]:
    assert block.layers is not None
    cuts = ((corner.y - block.y, corner.x - block.x) for corner in corners)
    return np.stack([block.layers[:, y : y + side, x : x + side] for y, x in cuts])


def _finish(store: MapStore, fragment: Fragment, shard: int, maps: Maps) -> None:
    """Blend and write a shard; beside the papyrus, where no model was trained, the map is 0."""
    rect = store.grid.rect(shard)
    if maps:
        store.write(shard, np.where(fragment.papyrus[rect.slices], store.grid.blend(rect, maps), np.float32(0)))
    else:
        store.write(shard, None)
