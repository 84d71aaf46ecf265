"""What is wrong with a file that a person wrote is told in one line: file, key, nearest allowed key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_recipes.schema import read_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    edge: Annotated[int, Field(ge=0)] = 0
    kind: Literal["near", "far"] = "near"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    tile: int = 64
    each: Inner | None = None
    parts: dict[str, Inner] = {}
    rows: list[Inner] = []

    @model_validator(mode="after")
    def _even(self) -> Outer:
        if self.tile % 2:
            raise ValueError(f"tile {self.tile} is odd: give an even one")
        return self


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "mine.yaml"


def test_keys_of_the_file_win_over_defaults(file):
    file.write_text("tile: 96\n")
    assert read_yaml(file, Outer, defaults={"name": "mine", "tile": 32}) == Outer(name="mine", tile=96)
    file.write_text("")
    assert read_yaml(file, Outer, defaults={"name": "mine"}) == Outer(name="mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiel: 1", r"unknown key 'tiel'; nearest is 'tile' \(allowed: name, tile, each, parts, rows\)"),
        ("each: {egde: 1}", r"unknown key 'each\.egde'; nearest is 'edge' \(allowed: edge, kind\)"),
        ("parts: {2/top: {egde: 1}}", r"unknown key 'parts\.2/top\.egde'; nearest is 'edge'"),
        ("rows: [{}, {knid: near}]", r"unknown key 'rows\.1\.knid'; nearest is 'kind'"),
        ("parts: {a: {edge: -1}}", r"parts\.a\.edge: input should be greater than or equal to 0, got -1"),
        ("each: {kind: nere}", r"each\.kind: input should be 'near' or 'far', got 'nere'"),
        ("tile: 3", r"tile 3 is odd: give an even one"),
        ("tile: 3.5\nnmae: x", r"tile: .*integer.*, got 3\.5; unknown key 'nmae'; nearest is 'name'"),
        ("- a list", "expected lines of `key: value`, got list"),
        ("a: [", "not readable as YAML: while parsing"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^\S*mine\.yaml: {message}") as caught:
        read_yaml(file, Outer, defaults={"name": "x"})
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_a_missing_file_are_named(file):
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml: no such file"):
        read_yaml(file, Outer)
    file.write_text("tile: 2")
    with pytest.raises(ValueError, match="name: is missing"):
        read_yaml(file, Outer)
