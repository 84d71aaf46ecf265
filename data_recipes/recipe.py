"""Recipes as people write them: typed, checked, and read from YAML."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_recipes.regions import Rect
from data_recipes.schema import describe, read_yaml

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
        try:
            return Recipe.model_validate({**self.model_dump(), **changed})
        except ValidationError as error:
            raise ValueError(f"recipe {self.name}: {describe(error, Recipe)}") from None


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
        path = Path(name_or_path).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            nearest = difflib.get_close_matches(text, list_recipes(), 1, 0.3) or list_recipes()
            raise ValueError(
                f"unknown recipe {text!r}: nearest is {nearest[0]!r} of {', '.join(list_recipes())}; "
                "or give a .yaml file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file at {path}")
    return read_yaml(path, Recipe, defaults={"name": path.stem})
