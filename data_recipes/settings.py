"""`fragment.yaml`: what a person states about a fragment because no file format says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_recipes.formats.companions import open_plane
from data_recipes.formats.parts import Parts
from data_recipes.formats.remote import AnyPath
from data_recipes.schema import describe, read_yaml


class FragmentSettings(BaseModel):
    """The keys of `fragment.yaml`, all optional; any other key is an error.

    Attributes:
        name: the fragment's.
        voxel_um: side of a voxel in µm.
        direction: `reverse` where the layers must be read from the last to the first.
        center_layer: index of the layer on the papyrus's surface.
        level: which level of a multiscale zarr to open; 0 is the finest.
        label_values: grey value in the label -> class index (0 is the background), for labels of several classes.
        purpose: what a phantom is for; nothing is trained on one for `test`.
        other_label: another revision of the ink label, of the same size: a file, by its path from this one's folder.
        to_uint8: how stored 8 bits came from 16: `high_byte` or `clip:LO:HI`; `none` if they never were 16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = Field(default=None, min_length=1)
    voxel_um: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    direction: Literal["forward", "reverse"] | None = None
    center_layer: int | None = Field(default=None, ge=0)
    level: int | None = Field(default=None, ge=0)
    label_values: dict[int, Annotated[int, Field(ge=0, le=254)]] | None = None
    other_label: str | None = Field(default=None, min_length=1)
    to_uint8: str | None = None
    purpose: Literal["test", "development"] | None = None

    @field_validator("to_uint8")
    @classmethod
    def _one_spelling(cls, how: str | None) -> str | None:
        from data_recipes.tiles import parse_to_uint8

        limits = parse_to_uint8(how) if how else None
        return f"clip:{limits[0]:.12g}:{limits[1]:.12g}" if limits else how


def load_settings(files: Sequence[AnyPath]) -> FragmentSettings:
    """The settings in the first of the files that exists; empty ones if none does.

    Raises:
        ValueError: not YAML, an unknown key, a value that is not possible.
    """
    found = _first(files)
    return FragmentSettings() if found is None else read_yaml(found, FragmentSettings)


def _first(files: Sequence[AnyPath]) -> AnyPath | None:
    return next((file for file in files if file.is_file()), None)


def add_other_label(parts: Parts) -> None:
    """Open the label that `other_label` names, if it does, as one more plane of the fragment.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not one plane.
    """
    stated_in = _first(parts.settings_at)
    name = None if stated_in is None else load_settings([stated_in]).other_label
    if stated_in is None or name is None:
        return
    file = stated_in.parent / name
    if isinstance(file, Path) and not file.exists():
        raise FileNotFoundError(
            f"{stated_in}: other_label: {name}: no such file; expected its path from the folder of this fragment.yaml"
        )
    parts.planes["other_label"], parts.sources["other_label"] = open_plane(file), file


def phantom_purpose(files: Sequence[AnyPath]) -> str | None:
    """What the record that lies beside a phantom's layers, and beside its settings, says it is for."""
    for folder in dict.fromkeys(file.parent for file in files if isinstance(file, Path)):
        record = folder / "phantom.json"
        if record.is_file():
            try:
                return json.loads(record.read_text(encoding="utf-8"))["purpose"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{record}: is damaged: remove the phantom's folder, it is made anew") from error
    return None


def merge(stated: FragmentSettings, found: dict[str, Any]) -> FragmentSettings:
    """What a person states wins over what the data say of themselves."""
    try:
        return FragmentSettings.model_validate({**found, **stated.model_dump(exclude_none=True)})
    except ValidationError as error:
        raise ValueError(f"the zarr's own attributes: {describe(error, FragmentSettings)}") from error
