"""`fragment.yaml`: what a person states about a fragment because no file format says it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


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
        to_uint8: how stored 8 bits came from 16: `high_byte` or `clip:LO:HI`.
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


def load_settings(files: Sequence[Path]) -> FragmentSettings:
    """The settings in the first of the files that exists; empty ones if none does.

    Raises:
        ValueError: not YAML, an unknown key, a value that is not possible.
    """
    import yaml

    for file in files:
        if not file.is_file():
            continue
        try:
            stated = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
        if stated is None:
            return FragmentSettings()
        if not isinstance(stated, dict):
            raise ValueError(f"{file}: expected lines of `key: value`, got {type(stated).__name__}")
        return _validate(stated, str(file))
    return FragmentSettings()


def merge(stated: FragmentSettings, found: dict[str, Any]) -> FragmentSettings:
    """What a person states wins over what the data say of themselves."""
    return _validate({**found, **stated.model_dump(exclude_none=True)}, "the zarr's own attributes")


def _validate(values: dict[str, Any], where: str) -> FragmentSettings:
    try:
        return FragmentSettings.model_validate(values)
    except ValidationError as error:
        told = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            if fault["type"] == "extra_forbidden":
                told.append(f"unknown key {key} (known: {', '.join(FragmentSettings.model_fields)})")
            else:
                told.append(f"{key}: {fault['msg']}, got {fault['input']!r}")
        raise ValueError(f"{where}: {'; '.join(told)}") from error
