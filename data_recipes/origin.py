"""Which fragments are the same papyrus: a conversion and what it was converted from, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from data_recipes.formats.remote import AnyPath, is_url
from data_recipes.formats.stack import converted_from

if TYPE_CHECKING:
    from data_recipes.fragment import Fragment


def refuse_conversions(fragments: Sequence[Fragment]) -> None:
    """Raise ValueError where two of the fragments are one papyrus: it would be trained on and tested on at once."""
    sources = [_sources(fragment.path) for fragment in fragments]
    for (one, its), (other, others) in combinations(zip(fragments, sources, strict=True), 2):
        if one.path == other.path:
            continue
        for copy, origins, original in ((one, its, other), (other, others, one)):
            if any(_is(origin, original, copy) for origin in origins):
                raise ValueError(
                    f"{copy.path} is the conversion of {original.path}: they are one fragment; "
                    "give one of the two paths"
                )
        if both := [origin for origin in its if origin in others]:
            raise ValueError(
                f"{one.path} and {other.path} are conversions of {both[0]}: they are one fragment; "
                "give one of the two paths"
            )


def _sources(path: AnyPath) -> list[str]:
    """What the zarr at `path` was converted from, what that was converted from, and so on as far as it lies here."""
    found: list[str] = []
    source = converted_from(path)
    while source and source not in found:
        found.append(source)
        if is_url(source):
            break
        source = None
        with suppress(OSError, ValueError):  # damaged, but nobody asked for it
            source = converted_from(Path(found[-1]))
    return found


def _is(origin: str, fragment: Fragment, copy: Fragment) -> bool:
    """Whether a path that a conversion names is this fragment; of one that has been moved, by its name and shape."""
    if is_url(origin) or not isinstance(fragment.path, Path):
        return origin == str(fragment.path)
    if Path(origin).exists():
        return Path(origin).resolve() == fragment.path.resolve()
    return Path(origin).name == fragment.path.name and (copy.depth, *copy.shape) == (fragment.depth, *fragment.shape)
