"""`python -m zoo.evaluate`: how good an ink map is, against the label of its fragment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import no_default, run_cli


@dataclass(frozen=True)
class EvaluateOptions:
    """Score an ink map against the label of its fragment.

    Counts papyrus that is supervised, and nothing else. Prints a table, and writes evaluation.json with every number,
    curve and what the map says of itself, and evaluation.png with right, missed and false ink beside the curves.
    """

    prediction: Annotated[tyro.conf.Positional[Path], arg(metavar="PREDICTION")]
    """An ink map from `python -m zoo.predict` (OME-Zarr, TIFF or PNG), or anybody's: these, or .npy."""
    fragment: Annotated[tyro.conf.Positional[str], arg(metavar="FRAGMENT")]
    """The fragment with its ink label, or phantom:INK:SEED."""
    out: Annotated[Path | None, no_default("FOLDER")] = None
    """Folder for the files. Default: NAME_evaluation beside the prediction."""
    threshold: Annotated[str | None, no_default("T|best")] = None
    """Ink is where the probability is T or more. Default: what is stored with the prediction, else 0.5. With `best`, T
    is that of the highest Dice on this very label: an upper bound, not a result."""
    region: Annotated[tuple[str, ...], no_default("Y0,Y1,X0,X1…")] = ()
    """Rectangles to look at, rows Y0 to Y1 and columns X0 to X1 in px, the last ones left out. Default: all that was
    predicted."""
    only: Annotated[Literal["validation"] | None, no_default("validation")] = None
    """Count only what lies in the fragment's validation mask."""
    overwrite: bool = False
    """Replace the evaluation that lies in the folder already."""


def main() -> None:
    options = tyro.cli(EvaluateOptions, prog="python -m zoo.evaluate")
    from zoo.evaluate.command import evaluate_command  # after parsing: --help must not wait for the libraries

    evaluate_command(options)


if __name__ == "__main__":
    run_cli(main)
