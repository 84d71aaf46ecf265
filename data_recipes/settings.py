"""`fragment.yaml`: what a person states about a fragment because no file format says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

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
        to_uint8: how stored 8 bits came from 16: `high_byte` or `clip:LO:HI`; `none` if they never were 16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = Field(default=None, min_length=1)
    voxel_um: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    direction: Literal["forward", "reverse"] | None = None
    center_layer: int | None = Field(default=None, ge=0)
    level: int | None = Field(default=None, ge=0)
    label_values: dict[int, Annotated[int, Field(ge=0, le=254)]] | None = None
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
    found = next((file for file in files if file.is_file()), None)
    return FragmentSettings() if found is None else read_yaml(found, FragmentSettings)


def merge(stated: FragmentSettings, found: dict[str, Any]) -> FragmentSettings:
    """What a person states wins over what the data say of themselves."""
    try:
        return FragmentSettings.model_validate({**found, **stated.model_dump(exclude_none=True)})
    except ValidationError as error:
        raise ValueError(f"the zarr's own attributes: {describe(error, FragmentSettings)}") from error
