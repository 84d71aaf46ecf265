"""Few-shot training: a fold's training side cut down to some labelled squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_recipes.regions import Rect
from data_recipes.split import Fold, Holds


def few_shots(fold: Fold, *, shots: int, side: int, seed: int, holds: Holds) -> Fold:
    """The fold with no more to train on than `shots` squares of `side` px, each with ink and blank papyrus in it.

    Squares lie on a lattice over each training rectangle, which is shifted and whose order is drawn from the seed, and
    the first that hold what is wanted are taken: those of one shot are among those of two. They lie within the training
    side, so they keep its distance to the test region and the calibration strips, of which no pixel is taken.

    The calibration strips are labelled pixels too, and stay as they were. What hangs on the threshold, such as Dice,
    has seen more than the shots: AUC and AP are the numbers to read.

    Raises ValueError where there are fewer such squares than asked for.
    """
    rng = np.random.default_rng(seed)
    squares = [
        (name, square) for name, rects in fold.train.items() for rect in rects for square in _lattice(rect, side, rng)
    ]
    chosen: list[tuple[str, Rect]] = []
    for index in rng.permutation(len(squares)):
        if len(chosen) == shots:
            break
        if all(holds(*squares[index])):
            chosen.append(squares[index])
    if len(chosen) < shots:
        raise ValueError(
            f"fold {fold.name}: the training side has {len(chosen)} squares of {side} px with ink and blank papyrus, "
            f"{shots} shots were asked for; ask for fewer shots, a smaller shot_px, or give more data"
        )
    train: dict[str, tuple[Rect, ...]] = {}
    for name, square in chosen:
        train[name] = (*train.get(name, ()), square)
    return replace(fold, train=train)


def _lattice(rect: Rect, side: int, rng: np.random.Generator) -> list[Rect]:
    """As many squares as fit beside each other, shifted by a random part of what they leave."""
    down, across = rect.height // side, rect.width // side
    y0, x0 = (int(rng.integers(length % side + 1)) for length in (rect.height, rect.width))
    return [
        Rect(0, side, 0, side).shift(rect.y0 + y0 + row * side, rect.x0 + x0 + column * side)
        for row in range(down)
        for column in range(across)
    ]
