"""Maps and planes that the tests of `zoo.evaluate` score."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from data_recipes.fragment import Fragment
from zoo.evaluate.__main__ import EvaluateOptions
from zoo.evaluate.command import evaluate_command
from zoo.evaluate.score import Evaluation, evaluate, what_counts
from zoo.ink_map import open_ink_map, stored_form

ROOT = Path(__file__).resolve().parents[3]
SHAPE = (150, 220)


def soft(mask: np.ndarray, sigma: float, seed: int = 0, noise: float = 2) -> np.ndarray:
    """A map that is mostly right: the label out of focus under a noise as coarse."""
    rough = np.random.default_rng(seed).normal(0, noise, mask.shape).astype(np.float32)
    return np.clip(cv2.GaussianBlur(mask.astype(np.float32) + rough, (0, 0), sigma), 0, 1)


def write_planes(folder: Path, **planes: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, plane in planes.items():
        Image.fromarray(plane.astype(np.uint8) * 255).save(folder / f"{folder.name}_{name}.png")
    return folder


def run(prediction: Path, fragment: Path | str, **options) -> dict:
    out = options.pop("out", prediction.parent / "out")
    evaluate_command(EvaluateOptions(prediction, str(fragment), out=out, **{"overwrite": True, **options}))
    return json.loads((out / "evaluation.json").read_text())


def write_tiff(path: Path, prob: np.ndarray, **provenance) -> Path:
    described = json.dumps(stored_form(provenance))
    tifffile.imwrite(path, (prob * 255).round().astype(np.uint8), description=described, metadata=None)
    return path


def scored(fragment: Fragment, ink_map: Path, threshold: float) -> Evaluation:
    opened = open_ink_map(ink_map)
    return evaluate(opened, what_counts(fragment, opened.shape), threshold)
