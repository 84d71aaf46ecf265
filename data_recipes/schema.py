"""Files that people write: YAML into a typed model, and one line that says what is wrong with it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from data_recipes.formats.remote import AnyPath

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: AnyPath, model: type[M], *, defaults: Mapping[str, Any] | None = None) -> M:
    """The YAML file at `path` as a checked `model`; `defaults` are the keys that the file may leave out.

    An empty file stands for a file without keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, no mapping, an unknown key (with the nearest), a missing key, a value that is not
            possible; one line that starts with the file's name.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected lines of `key: value`, got {type(content).__name__}")
    try:
        return model.model_validate({**(defaults or {}), **content})
    except ValidationError as error:
        raise ValueError(f"{path}: {describe(error, model)}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """What pydantic found wrong with the values of `model`, as one line: each key, and what would be right."""
    return "; ".join(_told(fault, model) for fault in error.errors())


def _told(fault: Any, model: type[BaseModel]) -> str:
    key = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        allowed = list(_model_at(model, fault["loc"][:-1]).model_fields)
        nearest = get_close_matches(str(fault["loc"][-1]), allowed, 1, 0.0)
        return f"unknown key {key!r}; nearest is {nearest[0]!r} (allowed: {', '.join(allowed)})"
    if fault["type"] == "missing":
        return f"{key}: is missing"
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {reprlib.repr(fault['input'])}"


def _model_at(model: type[BaseModel], where: Sequence[int | str]) -> type[BaseModel]:
    """The model that holds the key which the steps of `where` lead to; indices and names of entries are passed over."""
    for step in where:
        if isinstance(step, str) and step in model.model_fields:
            model = next(_models_in(model.model_fields[step].annotation), model)
    return model


def _models_in(annotation: Any):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
