"""The methods page names what is there, and its table is what the simulation found."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from zoo.bench import compare, floors, score
from zoo.metrics import BINS, InkHistogram
from zoo.nulls import torus_null
from zoo.significance import LETTER_PITCH, RESAMPLES
from zoo.surface_dice import SURFACE_TOLERANCE

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE = BENCHMARKS / "METHODS.md"
CALIBRATION = BENCHMARKS / "results" / "calibration.txt"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="benchmarks/ is part of a checkout only")


def test_files_that_are_named_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:zoo|data_recipes|benchmarks|tests)/[\w/]+\.\w+)", text))
    linked = set(re.findall(r"\]\(([^)#]+)\)", text))
    assert named and linked
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert [name for name in sorted(linked) if not (BENCHMARKS / name).is_file()] == []


def test_the_readme_leads_to_it() -> None:
    assert "(benchmarks/METHODS.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (compare.MIN_BLOCKS, "fewer than {} whole blocks"),
        (RESAMPLES, "over {} resamples"),
        (LETTER_PITCH, "by ≥ {} px on an axis"),
        (2 * LETTER_PITCH, "a test rectangle of {} px"),
        (inspect.signature(torus_null).parameters["n"].default, "{} times"),
        (inspect.signature(InkHistogram.reliability).parameters["groups"].default, "over {} equal intervals"),
        (BINS, "in {} bins"),
        (score.AUC_BLOCK, "squares of {} px"),
        (int(SURFACE_TOLERANCE), "within {} px"),
        (floors._SMOOTH_PX, "smoothed over {} px"),
    ],
)
def test_its_numbers_are_the_codes(number: int, sentence: str) -> None:
    assert sentence.format(number) in " ".join(PAGE.read_text(encoding="utf-8").split())


@pytest.mark.skipif(not CALIBRATION.is_file(), reason="the simulation's output is not there")
def test_its_table_is_what_the_simulation_found() -> None:
    number = re.compile(r"(?<![\d.])\d*\.?\d+")
    said = [
        [float(value) for value in number.findall(line)]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| \d+ \|", line)
    ]
    found = [
        [float(value) for value in number.findall(line)]
        for line in CALIBRATION.read_text(encoding="utf-8").splitlines()
        if re.match(r" +\d", line)
    ]
    assert said == found
