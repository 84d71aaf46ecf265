"""Imports run one way. CONTRIBUTING.md draws the arrows; each is checked here on the syntax tree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = ("zoo", "data_recipes")

# Module or package of zoo -> what it may import of zoo. Whatever lies inside a package may import that package.
LEAVES = {"zoo.card", "zoo.configs", "zoo.metrics", "zoo.degrade", "zoo.device", "zoo.memory", "zoo.pretrained"}
LEAVES |= {"zoo.ink_map", "zoo.cluster", "zoo.surface_dice"}
MODEL = {"zoo.card", "zoo.models"}
LIBRARY = LEAVES | MODEL | {"zoo", "zoo.registry", "zoo.losses", "zoo.significance", "zoo.document_metrics"}
LIBRARY |= {"zoo.adapter", "zoo.checkpoint", "zoo.cost", "zoo.nulls"}
COMMANDS = {"zoo.train", "zoo.predict", "zoo.evaluate", "zoo.explain"}
ALLOWED: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "zoo.models": {"zoo.card", "zoo.pretrained"},  # which does the reading of files for them
    "zoo.losses": MODEL,
    "zoo.cost": MODEL,
    "zoo.significance": {"zoo.metrics"},
    "zoo.nulls": {"zoo.metrics", "zoo.significance"},
    "zoo.document_metrics": {"zoo.metrics", "zoo.surface_dice"},
    "zoo.registry": MODEL | {"zoo.configs"},
    "zoo.adapter": MODEL | {"zoo.checkpoint"},  # which writes the file
    "zoo.checkpoint": MODEL | {"zoo", "zoo.registry", "zoo.configs", "zoo.degrade"},
    **dict.fromkeys(COMMANDS, LIBRARY),
    "zoo.bench": LIBRARY | COMMANDS,
    "zoo": {"zoo.card", "zoo.registry"},
    "zoo.catalogue": {"zoo", "zoo.registry", "zoo.cost"},
    "zoo.listing": set(),
    "zoo.__main__": {"zoo.registry", "zoo.catalogue", "zoo.listing"},
}
NEEDS_NO_DATA = {"zoo.card", "zoo.configs", "zoo.models", "zoo.losses"}
MODEL_LIBRARIES = {"torch", "torchvision", "segment_anything", "segmentation_models_pytorch", "monai", "timm", "numpy"}
TORCH_IN_DATA = {"data_recipes.tiles", "data_recipes.tile_cache", "data_recipes.augment"}  # and what lies inside them
FREE_OF_TORCH = {"zoo.card", "zoo.configs", "zoo.metrics", "zoo.ink_map", "zoo.document_metrics", "zoo.evaluate"}
FREE_OF_TORCH |= {"zoo.surface_dice"}
TORCH_LIBRARIES = {"torch", "torchvision", "kornia", "monai", "timm", "lightning", "lightning_fabric"}


def _modules() -> dict[str, Path]:
    found = {}
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(name: str, source: str, is_package: bool) -> Iterator[str]:
    """Full names of all that a module imports, at the top or inside a function; relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def _part(module: str) -> str:
    """The entry of ALLOWED that a module of zoo falls under: `zoo.models.sam` -> `zoo.models`."""
    parts = module.split(".")
    return ".".join(parts[:2])


def _faults(name: str, source: str, is_package: bool = False) -> list[str]:
    faults = []
    for target in _imports(name, source, is_package):
        top = target.split(".")[0]
        if name.startswith("data_recipes"):
            if top == "zoo":
                faults.append(f"{target}: data_recipes knows nothing of models")
            if top in TORCH_LIBRARIES and not TORCH_IN_DATA & {name, name.rpartition(".")[0]}:
                faults.append(f"{target}: of data_recipes only tiles, their cache and augment import torch")
            continue
        part = _part(name)
        if top == "zoo" and _part(target) != part and _part(target) not in ALLOWED.get(part, set()):
            faults.append(f"{target}: against the arrows, or a new part that tests/test_layers.py does not know")
        if top == "data_recipes" and part in NEEDS_NO_DATA:
            faults.append(f"{target}: {part} knows nothing of files")
        if part == "zoo.models" and top not in MODEL_LIBRARIES | {*OWN} and top not in sys.stdlib_module_names:
            faults.append(f"{target}: a model imports torch, its own library, card and models")
        if part in FREE_OF_TORCH and top in TORCH_LIBRARIES:
            faults.append(f"{target}: {part} must be free of torch")
    return faults


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    path = MODULES[name]
    assert not _faults(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")


def test_every_part_has_its_arrows() -> None:
    parts = {_part(name) for name in MODULES if name.startswith("zoo")}
    assert parts <= set(ALLOWED), f"say in ALLOWED what {sorted(parts - set(ALLOWED))} may import"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data_recipes.tiles", "from zoo.card import ModelCard"),
        ("data_recipes.sampling", "def f():\n    import torch"),
        ("zoo.models.sam", "from zoo.registry import create_model"),
        ("zoo.models.sam", "from data_recipes import regions"),
        ("zoo.models.sam", "import tifffile"),
        ("zoo.card", "from .models import base"),
        ("zoo.registry", "import zoo.checkpoint"),
        ("zoo.train.loop", "from zoo.bench.plan import plan"),
        ("zoo.train.loop", "from zoo.predict.tiles import predict_region"),
        ("zoo.metrics", "import torch"),
        ("zoo.evaluate.score", "import torch"),
        ("zoo.ink_map", "from zoo.evaluate.score import evaluate"),
    ],
)
def test_an_arrow_against_the_flow_is_found(name: str, source: str) -> None:
    assert _faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("zoo.bench.run", "from zoo.train.loop import train\nfrom data_recipes.fragment import open_fragment"),
        ("zoo.models.sam", "from .base import InkModel\nimport torch\nimport segment_anything"),
        ("zoo.checkpoint", "from data_recipes.tiles import InputContract\nfrom zoo.registry import create_model"),
    ],
)
def test_an_arrow_along_the_flow_is_not(name: str, source: str) -> None:
    assert not _faults(name, source)


def test_no_file_passes_four_hundred_lines() -> None:
    long = {
        name: n for name, path in MODULES.items() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, "a file is split when it passes 400 lines"
