"""The published schemas of leaderboard.json and of a run's result.json, made from the code that writes them.

python -m zoo.bench.schema [DIR]      writes DIR/leaderboard.schema.json and DIR/result.schema.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from tyro.conf import Positional, arg

from data_recipes.cli import run_cli
from zoo.bench.leaderboard import QUALITY, Row
from zoo.bench.result import Result, write_whole
from zoo.bench.suite import Suite
from zoo.significance import PairedInterval

DIALECT = GenerateJsonSchema.schema_dialect
_NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}]}


class _Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Crossing(_Whole):
    """Two rows that change places between two budgets; differences are first − second."""

    first: str
    second: str
    budgets: tuple[float, float]
    differences: list[dict[str, float | None]]
    told_apart: bool


class Budgets(_Whole):
    """Dice by row and by budget ("0.5": half), and what changes places."""

    dice: dict[str, dict[str, float]]
    crossings: list[Crossing]


class Leaderboard(_Whole):
    """leaderboard.json: what was compared, and a row a configuration, in the order of the table.

    `folds`, `seeds` and `floors` are what ran, by name; `suite` is what was asked for.
    """

    schema_version: Literal[1]
    title: str
    caption: list[str]
    suite: Suite
    environment: dict[str, Any]
    folds: list[str] = []
    seeds: list[int] = []
    floors: list[str] = []
    budgets: Budgets | None = None
    rows: list[Row]


def leaderboard_schema() -> dict[str, Any]:
    """Of leaderboard.json. What has a default may be missing in files of an earlier version, and stands in new ones.

    A row's plain dictionaries are told in full: scores by name, and differences as `PairedInterval` has them.
    """
    schema = TypeAdapter(Leaderboard).json_schema()
    row = schema["$defs"]["Row"]["properties"]
    row["quality"]["properties"] = dict.fromkeys(QUALITY, _NUMBER)
    schema["$defs"]["Difference"] = {
        "type": "object",
        "title": "Difference",
        "description": "of two configurations, paired: a − b, its 95 % interval, its two-sided p, and the blocks "
        "where anything was at stake; null is what has no value",
        "properties": dict.fromkeys(PairedInterval._fields, _NUMBER),
        "required": list(PairedInterval._fields),
        "additionalProperties": False,
    }
    difference = {"$ref": "#/$defs/Difference"}
    row["to_leader"]["anyOf"] = [difference, {"type": "null"}]
    schema["$defs"]["Crossing"]["properties"]["differences"] |= {"items": difference, "minItems": 2, "maxItems": 2}
    for name in ("above_floors", "above_floors_auc"):
        row[name]["additionalProperties"] = difference
    return {"$schema": DIALECT, **schema}


def result_schema() -> dict[str, Any]:
    """Of a run's result.json."""
    return {"$schema": DIALECT, **Result.model_json_schema()}


SCHEMAS = {"leaderboard.schema.json": leaderboard_schema, "result.schema.json": result_schema}


def schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def write_schemas(folder: Annotated[Positional[Path], arg(metavar="DIR")] = Path("benchmarks")) -> None:
    """Write the schemas of leaderboard.json and of result.json into a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; call this in a checkout of the project, or name a folder")
    for name, make in SCHEMAS.items():
        write_whole(folder / name, schema_text(make()))
        print(folder / name)


if __name__ == "__main__":
    run_cli(lambda: tyro.cli(write_schemas, prog="python -m zoo.bench.schema"))
