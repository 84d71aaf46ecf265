"""`python -m zoo.evaluate`: mistakes are one line each, and memory does not grow with the map."""

from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

from tests.zoo.evaluate.maps import ROOT, run, write_planes

# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "high"}, "--threshold high: expected a probability from 0 to 1, or best"),
        ({"threshold": "1.5"}, "--threshold 1.5"),
        ({"threshold": "nan"}, "--threshold nan"),
        ({"region": ("1,2,3",)}, "--region 1,2,3: expected Y0,Y1,X0,X1"),
        ({"region": ("5,5,0,9",)}, "is empty"),
        ({"region": ("0,151,0,9",)}, "Y0 < Y1 ≤ 150"),
        ({"region": ("-1,10,0,9",)}, "from 0 on"),
        ({"region": ("0,50,0,20",)}, "no pixel of the region is papyrus and supervised"),
    ],
)
def test_mistakes_in_options_are_named(saved, fragment, options, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        run(saved, fragment, **options)


def test_a_map_of_another_size_is_not_guessed_at(tmp_path, fragment):
    np.save(tmp_path / "crop.npy", np.zeros((100, 100), np.float32))
    with pytest.raises(ValueError, match="100×100 px, one has 150×220; expected the same"):
        run(tmp_path / "crop.npy", fragment)


def test_without_a_label_or_a_validation_mask_nothing_is_scored(tmp_path, saved, planes):
    bare = write_planes(tmp_path / "bare", mask=planes["mask"])
    with pytest.raises(ValueError, match="bare: has no ink label"):
        run(saved, bare)
    plain = write_planes(tmp_path / "plain", inklabels=planes["inklabels"])
    with pytest.raises(ValueError, match="plain has no validation mask"):
        run(saved, plain, only="validation")


@pytest.mark.parametrize("value", [math.nan, 1.5, -3.0])
def test_a_map_that_holds_no_probabilities_is_refused_by_name(saved, fragment, prob, value):
    prob[60, 60] = value
    np.save(saved, prob)
    with pytest.raises(ValueError, match="map.npy: probabilities from 0 to 1 are expected"):
        run(saved, fragment)


def test_a_folder_of_fragments_is_not_one(tmp_path, saved, planes):
    for name in ("a", "b"):
        (tmp_path / "many").mkdir(exist_ok=True)
        write_planes(tmp_path / "many" / name, inklabels=planes["inklabels"])
    with pytest.raises(ValueError, match="holds 2 fragments"):
        run(saved, tmp_path / "many")


def test_the_command_says_a_mistake_in_one_line_and_loads_no_torch(saved, fragment):
    source = (
        "import sys; sys.argv[0] = 'evaluate'\n"
        "from data_recipes.cli import run_cli\nfrom zoo.evaluate.__main__ import main\n"
        "try:\n    run_cli(main)\nfinally:\n    assert 'torch' not in sys.modules\n"
    )

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", source, str(saved), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    bad = call(str(fragment.parent / "nowhere"))
    assert bad.returncode == 2 and bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1
    good = call(str(fragment), "--region", "0,100,0,100", "0,50,100,200")
    assert good.returncode == 0, good.stderr
    assert "Dice" in good.stdout and "map_evaluation/evaluation.png" in good.stdout
    assert sorted(path.name for path in (saved.parent / "map_evaluation").iterdir()) == [
        "evaluation.json",
        "evaluation.png",
    ]


# -- memory ------------------------------------------------------------------------------------------------------------

MEMORY = """
import sys
from pathlib import Path
import numpy as np
import cv2, imagecodecs, tifffile, rich.table  # code is not data: loaded before counting starts
import zoo.evaluate.command
from zoo.evaluate.__main__ import EvaluateOptions
from zoo.memory import PeakMemory

zoo.evaluate.command.draw_evaluation = lambda *found: None  # of one size for every map, and matplotlib takes 200 MB
with PeakMemory() as peak:
    zoo.evaluate.command.evaluate_command(EvaluateOptions(Path(sys.argv[1]), sys.argv[2]))
print(peak.bytes)
"""


def test_memory_does_not_know_the_size_of_the_map(tmp_path):
    side = 10_000  # 200 MB of map, 100 MB of label and as much of papyrus, all of them sparse
    np.lib.format.open_memmap(tmp_path / "map.npy", mode="w+", dtype=np.float16, shape=(side, side))
    (tmp_path / "big").mkdir()
    for name in ("inklabels", "mask"):
        plane = tifffile.memmap(tmp_path / "big" / f"big_{name}.tif", shape=(side, side), dtype=np.uint8)
        for y, x in ((1400, 1400), (9_000, 7_000)):
            cv2.circle(plane[y : y + 400, x : x + 400], (200, 200), 150 if name == "inklabels" else 250, (1,), 30)
        plane.flush()
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "map.npy"), str(tmp_path / "big")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1])
    print(f"anonymous memory grew by {grown / 1e6:.0f} MB")
    assert grown < 200e6
