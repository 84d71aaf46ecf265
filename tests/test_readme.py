"""What the README shows works as it stands there."""

from __future__ import annotations

import itertools
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def _block(containing: str) -> str:
    (block,) = (block for block in BLOCKS if containing in block)
    return block


def test_the_builder_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(_block("list_models()"), names)
    assert names["logits"].shape == (1, 1, 96, 96)  # type: ignore[attr-defined]
    assert "repmode_tiny" in capsys.readouterr().out


def test_the_model_example_can_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from zoo import create_model, model_card

    module = ModuleType("my_net")
    exec(_block("class MyNet"), module.__dict__)
    monkeypatch.setitem(sys.modules, "my_net", module)
    model = create_model("my_net:build_my_net", depth=5, tile=32)
    assert model(torch.zeros(2, 1, 5, 32, 32)).shape == (2, 1, 32, 32)
    assert model_card("my_net:build_my_net").summary


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:zoo|data_recipes)[\w.]*)", text))
    assert [name for name in sorted(modules) if find_spec(f"{name}.__main__") is None] == []


def test_families_that_are_named_exist() -> None:
    from zoo import list_families, list_models

    table = re.search(r"\| Family .*?\n\n", README, flags=re.DOTALL)
    assert table
    rows = [line.split("|")[1] for line in table[0].strip().splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    known = {*list_families(), *list_models()}
    assert named <= known
    assert {*list_families()} - {"zfloor"} <= named


@pytest.mark.parametrize("board", ["quick", "dipole"])
def test_tables_show_the_committed_leaderboards(board: str) -> None:
    about = README.index(f"benchmarks/results/{board}/leaderboard.md")
    lines = itertools.dropwhile(lambda line: not line.startswith("| rank"), README[about:].splitlines())
    head, _, *shown = itertools.takewhile(lambda line: line.startswith("|"), lines)
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    leaderboard = json.loads((ROOT / "benchmarks" / "results" / board / "leaderboard.json").read_text(encoding="utf-8"))
    rows = {row["label"]: row for row in leaderboard["rows"]}
    for line in shown:
        cells = dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        row = rows[cells["model"]]
        assert cells["Dice [95 %]"] == "{dice:.3f} [{dice_low:.3f}, {dice_high:.3f}]".format_map(row)
        assert cells["rank"] == ("floor" if row["floor"] else str(row["rank"] or "–"))
        assert cells["AUC"] == f"{row['quality']['auc']:.3f}"
        assert cells["train MB"] == ("–" if row["train_mb"] is None else f"{row['train_mb']:.0f}")
    models = {label for label, row in rows.items() if not row["floor"]}
    assert models <= {line.strip("|").split("|")[1].strip() for line in shown}, "no model is left out"
