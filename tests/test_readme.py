"""What the README shows works as it stands there."""

from __future__ import annotations

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
