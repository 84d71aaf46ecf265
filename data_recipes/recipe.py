"""Recipes as people write them: typed, checked, and read from YAML."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_recipes.regions import Rect

RECIPES = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quota(_Strict):
    """How many tiles of each kind a part is asked for; `grid: all` takes every tile of the grid."""

    edge: Count = 0
    void: Count = 0
    random: Count = 0
    grid: Count | Literal["all"] = 0


class Part(Quota):
    """A named part of a fragment and its quota: `2`, or `2/top` with the rows and columns it covers as shares."""

    rows: tuple[Share, Share] = (0.0, 1.0)
    columns: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Part:
        for axis, (start, stop) in (("rows", self.rows), ("columns", self.columns)):
            if start >= stop:
                raise ValueError(f"{axis} runs from {start} to {stop}: give a start below the end")
        return self

    def rect(self, shape: tuple[int, int]) -> Rect:
        """The part in px of a fragment of (H, W)."""
        height, width = shape
        y0, y1, x0, x1 = (
            round(share * size)
            for share, size in zip((*self.rows, *self.columns), (height, height, width, width), strict=True)
        )
        return Rect(y0, y1, x0, x1)


class Recipe(_Strict):
    """How tiles are chosen. Sides in px; see `recipes/edges_buckets_void.yaml` for the published one, explained.

    A fragment that `parts` names gets the quotas of its parts, any other gets `each`. `samples` asks for that many
    tiles in all: every quota at hand is scaled by the same factor, so that the proportions stay those of the recipe.
    """

    name: str
    description: str = ""
    tile: Annotated[int, Field(ge=2)] = 64
    samples: Annotated[int, Field(ge=1)] | None = None
    min_papyrus: Share = 0.5
    buckets: Annotated[int, Field(ge=1, le=1000)] = 10
    capacity: Annotated[int, Field(ge=1)] = 1000
    canny: tuple[float, float] = (100.0, 200.0)
    translations: Annotated[int, Field(ge=1, le=64)] = 4
    void_margin: Annotated[float, Field(ge=0)] = 0.5
    stride: Annotated[float, Field(gt=0)] = 0.5
    each: Quota = Quota()
    parts: dict[str, Part] = {}

    @model_validator(mode="after")
    def _asks_for_something(self) -> Recipe:
        quotas = [quota.model_dump(include=set(Quota.model_fields)) for quota in (self.each, *self.parts.values())]
        if not any(value for quota in quotas for value in quota.values()):
            raise ValueError("asks for no tile: give `each` or a part an edge, void, random or grid quota")
        asked = {value == "all" for quota in quotas for value in quota.values() if value}
        if self.samples is not None and len(asked) > 1:
            raise ValueError("samples cannot scale `grid: all` beside counted quotas: give the grid a number")
        return self

    def with_(self, *, tile: int | None = None, samples: int | None = None) -> Recipe:
        """The same recipe at another tile side (px) or total number of tiles, checked."""
        changed = {key: value for key, value in (("tile", tile), ("samples", samples)) if value is not None}
        return _validated({**self.model_dump(), **changed}, self.name)


def list_recipes() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or the one in that YAML file.

    Raises ValueError naming the nearest allowed name or key, FileNotFoundError where a path leads nowhere.
    """
    text = str(name_or_path)
    path = RECIPES / f"{text}.yaml"
    if text not in list_recipes():
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            nearest = difflib.get_close_matches(text, list_recipes(), 1, 0.3) or list_recipes()
            raise ValueError(
                f"unknown recipe {text!r}: nearest is {nearest[0]!r} of {', '.join(list_recipes())}; "
                "or give a .yaml file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"recipe {path}: expected keys and values, got {type(content).__name__}")
    return _validated({"name": path.stem, **content}, path.name)


def _validated(content: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(key) for key in first["loc"]]
        if first["type"] == "extra_forbidden":
            allowed = list((Part if "parts" in where[:-1] else Quota if "each" in where[:-1] else Recipe).model_fields)
            nearest = difflib.get_close_matches(where[-1], allowed, 1, 0.0)
            raise ValueError(
                f"recipe {source}: unknown key {'.'.join(where)!r}; nearest is {nearest[0]!r} "
                f"(allowed: {', '.join(allowed)})"
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        got = "" if not where else f" (got {first['input']!r})"
        raise ValueError(f"recipe {source}: {'.'.join(where) + ': ' if where else ''}{message}{got}") from None
