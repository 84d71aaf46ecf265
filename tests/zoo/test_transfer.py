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
        | {"each_run": [{"fold": "f", "seed": seed, "dice": score, "auc_blocks": 0.5} for seed in range(seeds)]}
        for number, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    rows.append({**rows[0], "label": "zmean", "model": "zmean", "floor": True})
    folder.mkdir(parents=True)
    (folder / "leaderboard.json").write_text(json.dumps({"rows": rows, "suite": {"name": str(folder)}, **changed}))
    return folder


def told(transfer: ModuleType, tmp_path: Path, first: Sequence[float], second: Sequence[float], seeds: int = 3) -> str:
    paths = leaderboard(tmp_path / "phantom", first, seeds=seeds), leaderboard(tmp_path / "tile", second, seeds=seeds)
    return transfer.report(*map(transfer.read_board, paths))


TEN = [round(0.3 + 0.05 * number, 2) for number in range(10)]


def test_the_same_order_transfers(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [score**2 for score in TEN])
    assert "τ-b +1.00" in text and "0 of 45 pairs" in text
    assert text.endswith("says something of the order in tile: the interval excludes zero.")


def test_one_swapped_pair_is_named(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [*TEN[:8], TEN[9], TEN[8]])
    assert "1 of 45 pairs stand the other way round" in text
    assert "  m9 above m8: 0.750 > 0.700, but 0.700 < 0.750" in text


def test_a_reversed_order_is_no_transfer(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, TEN[::-1])
    assert "τ-b -1.00" in text and "45 of 45 pairs" in text
    assert "No transfer: the interval is below zero" in text


def test_unrelated_orders_make_no_claim(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [TEN[i] for i in (4, 9, 1, 6, 3, 0, 8, 2, 7, 5)])
    assert text.endswith("No claim of transfer: the interval includes zero.")


def test_a_leaderboard_that_gives_all_the_same_makes_no_claim(transfer: ModuleType, tmp_path: Path) -> None:
    text = told(transfer, tmp_path, TEN, [0.5] * 10)
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


def test_a_file_without_single_runs_says_how_to_write_it_anew(transfer: ModuleType, tmp_path: Path) -> None:
    path = leaderboard(tmp_path / "a", TEN) / "leaderboard.json"
    content = json.loads(path.read_text())
    del content["rows"][3]["each_run"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"zoo\.bench report"):
        transfer.read_board(path)


def test_what_takes_part_with_a_fault_is_named(transfer: ModuleType, tmp_path: Path) -> None:
    here, other = (transfer.read_board(leaderboard(tmp_path / name, TEN)) for name in "ab")
    here.rows["m2"]["failures"], other.rows["m4"]["rank"] = ["Dice not above zmean"], None
    text = transfer.report(here, other)
    assert "in a these fail a control: m2\n" in text and "in b these have no rank while others have: m4\n" in text


def test_tau_between_seeds_of_one_board_stands_beside(transfer: ModuleType, tmp_path: Path) -> None:
    here, other = (transfer.read_board(leaderboard(tmp_path / name, TEN)) for name in "ab")
    for row in here.rows.values():
        row["each_run"][2]["dice"] *= -1
    assert "between two seeds of a: +1.00, -1.00, -1.00\n" in transfer.report(here, other)
    assert "between two seeds of b: +1.00, +1.00, +1.00\n" in transfer.report(here, other)


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
        transfer.report(here, other)
    del other.rows["m3"]
    other.rows.clear()
    with pytest.raises(ValueError, match="0 labels are in both"):
        transfer.report(here, other)
    with pytest.raises(ValueError, match="a and a are of one suite"):
        transfer.report(here, here)


def test_coefficients_are_scipys_with_ties_and_repeats(transfer: ModuleType) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 4, (2, 30, 8)).astype(float)
    x[0] = 1
    expected = [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(transfer.tau_b(x, y), expected)
    assert np.isnan(expected[0])
    times = rng.integers(0, 3, (30, 8))
    expected = [kendalltau(*(np.repeat(v, t) for v in (a, b))).statistic for a, b, t in zip(x, y, times, strict=True)]
    np.testing.assert_allclose(transfer.tau_b(x, y, times), expected)


def test_variants_of_a_family_and_seeds_widen_the_interval(transfer: ModuleType) -> None:
    order = np.arange(12.0)
    noisy = order[:, None] + np.random.default_rng(0).normal(0, 6, (12, 3))
    alone, families = [str(index) for index in range(12)], [str(index // 4) for index in range(12)]
    same = np.repeat(noisy.mean(1)[:, None], 3, axis=1)
    steady, seeds, few = (
        transfer.tau_interval(a, np.c_[order, order], names)
        for a, names in ((same, alone), (noisy, alone), (same, families))
    )
    assert steady.tau == seeds.tau == few.tau
    assert seeds.hi - seeds.lo > steady.hi - steady.lo and few.hi - few.lo > steady.hi - steady.lo


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_unrelated_scores_are_seldom_taken_for_related(transfer: ModuleType, shared: float) -> None:
    rng, sizes = np.random.default_rng(1), (1, 3, 4, 3, 1, 1, 1)
    family = np.repeat(np.arange(len(sizes)), sizes)
    claims = 0
    for _ in range(200):
        boards = [
            np.sqrt(shared) * rng.standard_normal(len(sizes))[family] + np.sqrt(1 - shared) * rng.standard_normal(14)
            for _ in range(2)
        ]
        found = transfer.tau_interval(*(board[:, None] for board in boards), family.astype(str), n=200)
        claims += not found.lo <= 0 <= found.hi
    assert claims <= 20
