"""Which part of which fragment is asked for how many tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data_recipes.recipe import Quota, Recipe
from data_recipes.regions import Rect, Region, whole
from data_recipes.report import KindReport, PartReport


class Planned(NamedTuple):
    """A part at hand: the rectangles in which its tiles may lie, and its quota."""

    name: str
    fragment: str
    rects: tuple[Rect, ...]
    quota: Quota


def plan_parts(
    shapes: Mapping[str, tuple[int, int]], region: Region | None, recipe: Recipe
) -> tuple[list[Planned], list[PartReport]]:
    """The parts at hand with their quotas, and a report for each named part that is not.

    A fragment that the recipe names gets its parts, any other gets `each`. Where none of the recipe's names is among
    the fragments its parts are for other data, and are not missed; nor are they under `samples`, which is a total for
    what is there.
    """
    if region is not None and (unknown := [name for name in region if name not in shapes]):
        raise ValueError(f"the region names {unknown[0]!r}, which is not among the fragments: {', '.join(shapes)}")
    named = {part: part.split("/", 1)[0] for part in recipe.parts}
    planned: list[Planned] = []
    for fragment, shape in shapes.items():
        rects = (whole(shape),) if region is None else tuple(region.get(fragment, ()))
        own = [part for part, of in named.items() if of == fragment]
        if not rects:
            continue
        for part in own:
            inside = [rect.intersect(recipe.parts[part].rect(shape)) for rect in rects]
            quota = Quota(**recipe.parts[part].model_dump(include=set(Quota.model_fields)))
            planned.append(Planned(part, fragment, tuple(rect for rect in inside if rect), quota))
        if not own:
            clipped = [rect.intersect(whole(shape)) for rect in rects]
            planned.append(Planned(fragment, fragment, tuple(rect for rect in clipped if rect), recipe.each))
    if recipe.samples is not None:
        return _scaled(planned, recipe.samples), []
    absent = []
    if any(fragment in shapes for fragment in named.values()):
        for part, fragment in named.items():
            if part in {plan.name for plan in planned}:
                continue
            given = fragment in shapes
            reason = f"fragment {fragment} is {'held out of the region' if given else 'not among the data given'}"
            asked = [(kind, getattr(recipe.parts[part], kind)) for kind in Quota.model_fields]
            kinds = [KindReport(kind, n, 0, 0, reason=reason) for kind, n in asked if isinstance(n, int) and n]
            absent.append(PartReport(part, fragment, tuple(kinds)))
    return planned, absent


def _scaled(planned: list[Planned], samples: int) -> list[Planned]:
    """The same parts with quotas in the same proportions and `samples` in all (largest remainders get the odd ones)."""
    kinds = list(Quota.model_fields)
    weights = {
        (row, kind): 1 if value == "all" else value
        for row, plan in enumerate(planned)
        for kind in kinds
        if (value := getattr(plan.quota, kind))
    }
    total = sum(weights.values())
    counts = {key: samples * weight // total for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: -(samples * weights[key] % total))
    for key in by_remainder[: samples - sum(counts.values())]:
        counts[key] += 1
    return [
        plan._replace(quota=Quota(**{kind: counts.get((row, kind), 0) for kind in kinds}))
        for row, plan in enumerate(planned)
    ]
