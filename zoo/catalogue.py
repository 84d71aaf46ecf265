"""All models in one table: what each card says, and what a tile costs by it.

To count means to import every model's library, which takes longer than all the counting. So the table comes with the
package, counted with the pinned libraries (`python -m zoo.catalogue` writes it), under a digest of whatever it depends
on: the source of cards, models, registry and counting, and the versions of the libraries. Where one of them differs,
models are counted anew, once, and kept in the cache folder. Models of other packages are always counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zoo
from data_recipes.files import cache_folder, whole_file
from zoo.registry import _target, list_models, model_card

LIBRARIES = ("torch", "torchvision", "timm", "segment-anything", "segmentation-models-pytorch", "monai", "einops")
_KEPT = "catalogue.json"
SHIPPED = Path(__file__).with_name(_KEPT)


def catalogue(names: Iterable[str], say: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """A row a model: the fields of its card, and those of `zoo.cost.Cost` for one tile of the card's depth and side.

    Imports torch and the models' libraries only where a row is not kept. `say` is told when that takes a while.
    """
    names = list(names)
    kept = _read()
    missing = [name for name in names if name not in kept]
    if len(missing) > 1:
        say(f"counting {len(missing)} models, once; the next call reads what was kept")
    fresh = {name: describe(name) for name in missing}
    lasting = {name: row for name, row in fresh.items() if _target(name)[0].startswith("zoo.")}
    if lasting:
        _write(kept | lasting)
    return [(kept | fresh)[name] for name in names]


def describe(name: str) -> dict[str, Any]:
    """The row of one model, counted now."""
    from zoo.cost import count_cost, without_weights
    from zoo.registry import create_model

    card = model_card(name)
    with without_weights():
        model = create_model(name, depth=card.depth, tile=card.tile)
    row = dataclasses.asdict(card) | {"name": name} | dataclasses.asdict(count_cost(model))
    return json.loads(json.dumps(row))  # as it is read back from the cache, tuples as lists


def _digest() -> str:
    """Of all that a kept row follows from."""
    home = Path(zoo.__file__).parent
    sources = [home / f"{part}.py" for part in ("card", "cost", "registry", "catalogue")]
    digest = hashlib.sha256()
    for path in [*sources, *sorted((home / "models").rglob("*.py"))]:
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    for library in LIBRARIES:
        try:
            digest.update(f"\n{library} {version(library)}".encode())
        except PackageNotFoundError:
            digest.update(f"\n{library} absent".encode())
    return digest.hexdigest()


def _read() -> dict[str, dict[str, Any]]:
    digest = _digest()
    for place in (SHIPPED, cache_folder() / _KEPT):
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
            if kept["digest"] == digest:
                return kept["rows"]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, not readable, or not ours
            continue
    return {}


def _write(rows: dict[str, dict[str, Any]]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        _write_to(cache_folder() / _KEPT, rows)
    except OSError:
        return  # a table is worth printing where nothing can be kept


def _write_to(place: Path, rows: dict[str, dict[str, Any]]) -> None:
    with whole_file(place) as partial:
        partial.write_text(
            json.dumps({"digest": _digest(), "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    _write_to(SHIPPED, {name: describe(name) for name in list_models() if _target(name)[0].startswith("zoo.")})
