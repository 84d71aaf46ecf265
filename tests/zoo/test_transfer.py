"""`benchmarks/transfer.py`: two leaderboards' orders are compared, and no more is claimed than they bear out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "transfer.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks/ is part of a checkout only")


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    spec = spec_from_file_location("transfer", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["transfer"] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def leaderboard(folder: Path, scores: Sequence[float], *, seeds: int = 3, **changed: Any) -> Path:
    """A folder with a leaderboard of models m0, m1, … with these scores, above a floor."""
    labels = [f"m{number}" for number in range(len(scores))]
    rows = [
        {"label": label, "model": label, "runs": seeds, "floor": False, "control": False, "rank": number + 1}
        | {"quality": {"dice": score, "auc_blocks": (1 + score) / 2}}
        for number, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    rows.append({**rows[0], "label": "zmean", "model": "zmean", "floor": True, "quality": {"dice": 0.0}})
    folder.mkdir(parents=True)
    (folder / "leaderboard.json").write_text(json.dumps({"seeds": list(range(seeds)), "rows": rows, **changed}))
    return folder


def told(transfer: ModuleType, tmp_path: Path, first: Sequence[float], second: Sequence[float], seeds: int = 3) -> str:
    paths = leaderboard(tmp_path / "phantom", first, seeds=seeds), leaderboard(tmp_path / "tile", second, seeds=seeds)
    return transfer.report(*map(transfer.read_board, paths), ["dice"])


TEN = [round(0.3 + 0.05 * number, 2) for number in range(10)]


def test_the_same_order_transfers(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [score**2 for score in TEN])
    assert "τ-b +1.00" in text and "0 of 45 pairs" in text
    assert text.endswith("says something of the order in tile: the interval excludes zero.")


def test_one_swapped_pair_is_named(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [*TEN[:8], TEN[9], TEN[8]])
    assert "1 of 45 pairs are discordant" in text
    assert "  m9 above m8: 0.750 > 0.700, but 0.700 < 0.750; told apart in both" in text


def test_a_reversed_order_is_no_transfer(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, TEN[::-1])
    assert "τ-b -1.00" in text and "45 of 45 pairs" in text
    assert "No transfer: the interval is below zero" in text


def test_unrelated_orders_make_no_claim(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [TEN[i] for i in (4, 9, 1, 6, 3, 0, 8, 2, 7, 5)])
    assert text.endswith("No claim of transfer: the interval includes zero.")


def test_a_leaderboard_that_gives_all_the_same_makes_no_claim(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [0.5] * 10)
    assert "45 are tied in one" in text
    assert text.endswith("No claim of transfer: τ has no value, for one of the two gives all the same score.")


@pytest.mark.parametrize(
    ("configurations", "seeds", "why"),
    [
        (9, 3, "(configurations: 9, 10 are needed)"),
        (10, 2, "(seeds in phantom: 2, 3 are needed; seeds in tile: 2, 3 are needed)"),
        (2, 3, "(configurations: 2, 10 are needed)"),
    ],
)
def test_too_little_is_said_to_be(
    transfer: ModuleType, tmp_path: Path, configurations: int, seeds: int, why: str
) -> None:
    text = told(transfer, tmp_path, TEN[:configurations], TEN[:configurations], seeds)
    assert text.endswith(f"No claim of transfer: too little to tell {why}.")
    assert ("no interval of so few" in text) == (configurations < 10)


def test_seeds_that_the_file_does_not_say_are_too_few(transfer: ModuleType, tmp_path: Path) -> None:
    boards = []
    for name in "ab":
        path = leaderboard(tmp_path / name, TEN) / "leaderboard.json"
        content = json.loads(path.read_text())
        del content["seeds"]
        path.write_text(json.dumps(content))
        boards.append(transfer.read_board(path.parent))
    assert "seeds in a: unknown, 3 are needed" in transfer.report(*boards, ["auc_blocks"])


def test_floors_and_what_lacks_runs_take_no_part(transfer: ModuleType, tmp_path: Path) -> None:
    path = leaderboard(tmp_path / "a", TEN) / "leaderboard.json"
    content = json.loads(path.read_text())
    content["rows"][0]["runs"] = 2
    content["rows"][1]["control"] = True
    path.write_text(json.dumps(content))
    assert [*transfer.read_board(path).rows] == [f"m{number}" for number in range(2, 10)]


def test_mistakes_are_told(transfer: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no leaderboard there"):
        transfer.read_board(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("[1]")
    with pytest.raises(ValueError, match="not a leaderboard.json"):
        transfer.read_board(broken)
    here, other = (transfer.read_board(leaderboard(tmp_path / name, TEN)) for name in "ab")
    other.rows["m3"] = {**other.rows["m3"], "model": "another"}
    with pytest.raises(ValueError, match="m3: another model in a than in b"):
        transfer.report(here, other, ["dice"])
    del other.rows["m3"]
    other.rows.clear()
    with pytest.raises(ValueError, match="0 configurations are in both"):
        transfer.report(here, other, ["dice"])


def test_resampled_coefficients_are_scipys_ties_and_all(transfer: ModuleType) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 4, (2, 30, 8)).astype(float)
    x[0] = 1
    expected = [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(transfer._tau_b(x, y), expected)
    assert np.isnan(expected[0])


def test_unrelated_scores_are_seldom_taken_for_related(transfer: ModuleType) -> None:
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(200):
        found = transfer.tau_interval(*rng.standard_normal((2, 10)), n=200)
        claims += not found.lo <= 0 <= found.hi
    assert claims <= 20
