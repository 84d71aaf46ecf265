"""Lines of Greek capitals in the shapes of papyrus hands, drawn as pen strokes along skeletons."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from scipy import ndimage

Point = tuple[float, float]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """An elliptic arc as a polyline; angles in degrees, 0 to the right, 90 downwards."""
    steps = max(4, round(abs(stop - start) / 22))
    angles = [(start + (stop - start) * i / steps) * pi / 180 for i in range(steps + 1)]
    return [(cx + rx * cos(a), cy + ry * sin(a)) for a in angles]


# x and y in units of the letter's height, y downwards. Epsilon, sigma and omega are lunate, as scribes wrote them.
SKELETONS: dict[str, list[list[Point]]] = {
    "Α": [[(0, 1), (0.4, 0), (0.8, 1)], [(0.16, 0.62), (0.64, 0.62)]],
    "Β": [
        [(0, 0), (0, 1)],
        [(0, 0), *_arc(0.25, 0.24, 0.28, 0.24, -90, 90), (0, 0.48)],
        [(0, 0.48), *_arc(0.28, 0.74, 0.32, 0.26, -90, 90), (0, 1)],
    ],
    "Γ": [[(0.65, 0), (0, 0), (0, 1)]],
    "Δ": [[(0, 1), (0.42, 0), (0.84, 1), (0, 1)]],
    "Ε": [_arc(0.5, 0.5, 0.5, 0.5, -50, -310), [(0.02, 0.5), (0.66, 0.5)]],
    "Ζ": [[(0, 0), (0.7, 0), (0, 1), (0.7, 1)]],
    "Η": [[(0, 0), (0, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.5), (0.7, 0.5)]],
    "Θ": [_arc(0.45, 0.5, 0.45, 0.5, 0, 360), [(0.05, 0.5), (0.85, 0.5)]],
    "Ι": [[(0, 0), (0, 1)]],
    "Κ": [[(0, 0), (0, 1)], [(0.65, 0), (0.02, 0.55), (0.68, 1)]],
    "Λ": [[(0, 1), (0.4, 0), (0.8, 1)]],
    "Μ": [[(0, 1), (0.12, 0), (0.48, 0.75), (0.84, 0), (0.96, 1)]],
    "Ν": [[(0, 1), (0, 0), (0.7, 1), (0.7, 0)]],
    "Ξ": [[(0, 0), (0.7, 0)], [(0.08, 0.5), (0.62, 0.5)], [(0, 1), (0.7, 1)]],
    "Ο": [_arc(0.42, 0.5, 0.42, 0.46, 0, 360)],
    "Π": [[(0.06, 1), (0.06, 0)], [(0, 0), (0.78, 0)], [(0.7, 0), (0.7, 1)]],
    "Ρ": [[(0, 0), (0, 1)], [(0, 0), *_arc(0.28, 0.27, 0.3, 0.27, -90, 90), (0, 0.54)]],
    "Ϲ": [_arc(0.5, 0.5, 0.5, 0.5, -45, -315)],
    "Τ": [[(0, 0), (0.76, 0)], [(0.38, 0), (0.38, 1)]],
    "Υ": [[(0, 0), (0.36, 0.5), (0.72, 0)], [(0.36, 0.5), (0.36, 1)]],
    "Φ": [_arc(0.45, 0.48, 0.45, 0.3, 0, 360), [(0.45, -0.08), (0.45, 1.08)]],
    "Χ": [[(0, 0), (0.72, 1)], [(0.72, 0), (0, 1)]],
    "Ψ": [[(0, 0), *_arc(0.4, 0.2, 0.4, 0.34, 180, 0), (0.8, 0)], [(0.4, -0.05), (0.4, 1.05)]],
    "ω": [[*_arc(0.27, 0.55, 0.27, 0.42, -110, -360), *_arc(0.81, 0.55, 0.27, 0.42, -180, -430)]],
}
FREQUENT = "ΑΑΑΕΕΕΙΙΟΟΟΝΝΝΤΤΤϹϹϹΗΗΥΥΡΡΚΚΛΛΜΜΠΠωωΔΔΓΘΒΦΧΞΖΨ"
"""Roughly the frequency of the letters in Greek prose."""


@dataclass(frozen=True)
class Letter:
    """One letter on the page: where its box begins (px), what it is, and whether it is ink or a decoy."""

    glyph: str
    y: float
    x: float
    ink: bool
    strokes: tuple[np.ndarray, ...]
    """Polylines of (n,2) y,x in px, relative to (y, x)."""


@dataclass(frozen=True)
class Page:
    letters: tuple[Letter, ...]
    pen: float
    """Pen width in px."""
    size: float
    """Height of a letter in px."""


def write_page(rng: np.random.Generator, height: int, width: int, *, size: float = 88.0, pen: float = 16.0) -> Page:
    """Lines of letters over an (H,W) page, half of each line's letters ink and half decoys, in random order.

    The first line's height, the slope of the lines and the place of each letter are random, so that where a letter
    stands says nothing about the next page.
    """
    pitch = 1.32 * size
    slope = rng.uniform(-0.02, 0.02)
    letters: list[Letter] = []
    owed = 0  # an odd line's spare letter goes to the other side in the next, so that the page is balanced
    for top in np.arange(rng.uniform(-0.6, 0.4) * pitch, height, pitch):
        row: list[tuple[str, float]] = []
        x = rng.uniform(-0.5, 0.3) * size
        while x < width:
            glyph = str(rng.choice(list(FREQUENT)))
            row.append((glyph, x))
            wide = max(p[0] for stroke in SKELETONS[glyph] for p in stroke)
            x += size * 0.9 * wide + pen + rng.uniform(0.10, 0.22) * size
        inks = len(row) // 2 + (len(row) % 2) * (owed if owed else int(rng.integers(2)))
        if len(row) % 2:
            owed = 0 if owed else int(inks == len(row) // 2)
        flags = rng.permutation(np.arange(len(row)) < inks)
        for (glyph, left), ink in zip(row, flags, strict=True):
            scale = size * rng.uniform(0.92, 1.0) * np.array([1.0, 0.9])
            lean = rng.uniform(-0.06, 0.06)
            strokes = tuple(
                np.array(
                    [((y + rng.normal(0, 0.012)) * scale[0], (px + lean * (0.5 - y)) * scale[1]) for px, y in stroke],
                    dtype=np.float32,
                )
                for stroke in SKELETONS[glyph]
            )
            y = top + slope * left + rng.normal(0, 0.02) * size
            letters.append(Letter(glyph, float(y), float(left + pen / 2), bool(ink), strokes))
    return Page(tuple(letters), pen, size)


def draw(letters: list[Letter] | tuple[Letter, ...], shape: tuple[int, int], pen: float) -> np.ndarray:
    """(H,W) bool: within half a pen's width of a skeleton."""
    out = np.zeros(shape, bool)
    for letter in letters:
        points = np.concatenate(letter.strokes)
        y0 = max(int(np.floor(letter.y + points[:, 0].min() - pen)), 0)
        x0 = max(int(np.floor(letter.x + points[:, 1].min() - pen)), 0)
        y1 = min(int(np.ceil(letter.y + points[:, 0].max() + pen)), shape[0])
        x1 = min(int(np.ceil(letter.x + points[:, 1].max() + pen)), shape[1])
        if y0 >= y1 or x0 >= x1:
            continue
        yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        yy -= np.float32(letter.y)
        xx -= np.float32(letter.x)
        box = out[y0:y1, x0:x1]
        for stroke in letter.strokes:
            for (ay, ax), (by, bx) in pairwise(stroke):
                dy, dx = by - ay, bx - ax
                along = np.clip(((yy - ay) * dy + (xx - ax) * dx) / max(dy * dy + dx * dx, 1e-6), 0, 1)
                box |= (yy - ay - along * dy) ** 2 + (xx - ax - along * dx) ** 2 <= (pen / 2) ** 2
    return out


@dataclass(frozen=True)
class Drawn:
    """What a person drew: the mask, and how it came about (for the record)."""

    mask: np.ndarray
    shifts: tuple[tuple[float, float], ...]
    """(y, x) px that each drawn letter was displaced by."""
    missing: int


def draw_by_hand(rng: np.random.Generator, page: Page, shape: tuple[int, int]) -> Drawn:
    """The ink letters as people label them: each displaced by 6-13 px, corners smoothed, one in twenty left out."""
    drawn, shifts, missing = [], [], 0
    for letter in page.letters:
        if not letter.ink:
            continue
        length, angle, left_out = rng.uniform(6, 13), rng.uniform(0, 2 * pi), rng.random() < 0.05
        if left_out:
            missing += 1
            continue
        dy, dx = length * sin(angle), length * cos(angle)
        shifts.append((dy, dx))
        drawn.append(Letter(letter.glyph, letter.y + dy, letter.x + dx, True, letter.strokes))
    mask = draw(drawn, shape, page.pen * 1.1).astype(np.float32)
    return Drawn(ndimage.gaussian_filter(mask, 4.0) > 0.42, tuple(shifts), missing)
