"""What a loss may be called, and which parameters each takes; a written loss into checked terms."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

DEFAULT_LOSS = "focal+jaccard+ms_ssim"
PIXEL_LOSSES = ("focal", "bce", "soft_bce")
REGION_LOSSES = ("jaccard", "dice", "tversky", "lovasz", "cldice", "boundary")
LOSSES = (*PIXEL_LOSSES, *REGION_LOSSES, "ms_ssim")
AUX_LOSSES = ("iou", "presence")
PRESETS: dict[str, dict[str, Any]] = {
    # Kirillov et al. 2023, Segment Anything
    "sam": {"focal": 20, "dice": 1, "iou": 1},
    # the report on RepMode for ink: the mean of three
    "repmode": {"focal": {"weight": 1 / 3, "alpha": 0.3, "gamma": 2}, "dice": 1 / 3, "soft_bce": 1 / 3},
}

# A loss as people write it: names joined by +, or name -> weight, or name -> {weight, and what the loss takes besides}.
Spec = str | Mapping[str, float | Mapping[str, float]]


class Parameter(NamedTuple):
    default: float | None
    least: float
    most: float
    whole: bool = False


PARAMETERS: dict[str, dict[str, Parameter]] = {
    "focal": {"alpha": Parameter(None, 0, 1), "gamma": Parameter(2.0, 0, 10)},
    "soft_bce": {"smoothing": Parameter(0.25, 0, 0.49)},
    "tversky": {"alpha": Parameter(0.3, 0, 10), "beta": Parameter(0.7, 0, 10)},
    "cldice": {"iterations": Parameter(3, 0, 50, whole=True)},
}


@dataclass(frozen=True)
class Term:
    """One loss of a sum: its weight, and every parameter that it takes."""

    weight: float
    parameters: Mapping[str, float | None]


def parse_spec(spec: Spec) -> dict[str, Term]:
    """{name: Term} of a loss, however it is written; see `make_loss`.

    Raises:
        ValueError: unknown name or parameter (the nearest is named), a number that is not possible, nothing to learn.
    """
    if isinstance(spec, str):
        names = [name.strip() for name in spec.split("+")]
        if len(set(names)) < len(names):
            raise ValueError(f"loss {spec!r} names a loss twice; write weights as a mapping, {{name: weight}}")
        spec = PRESETS[names[0]] if len(names) == 1 and names[0] in PRESETS else dict.fromkeys(names, 1.0)
    if not spec:
        raise ValueError(f"the loss is empty; allowed: {', '.join(LOSSES)}")
    terms = {name: _term(name, written) for name, written in spec.items()}
    if not any(term.weight for term in terms.values()):
        raise ValueError("the loss has no weight above 0: nothing would be learnt")
    if not any(terms[name].weight for name in LOSSES if name in terms):
        raise ValueError(
            f"the loss is {' and '.join(terms)} alone, which train no mask; add one of {', '.join(LOSSES)}"
        )
    return terms


def _term(name: str, written: float | Mapping[str, float]) -> Term:
    if name not in (*LOSSES, *AUX_LOSSES):
        raise ValueError(
            f"unknown loss {name!r}{_nearest(name, (*LOSSES, *AUX_LOSSES))} (allowed: {', '.join(LOSSES)}; of what a "
            f"model predicts besides: {', '.join(AUX_LOSSES)}; alone: {', '.join(PRESETS)})"
        )
    given = dict(written) if isinstance(written, Mapping) else {"weight": written}
    weight = given.pop("weight", 1.0)
    if not _number(weight) or not 0 <= weight < math.inf:
        raise ValueError(f"loss {name}: weight {weight!r} is not a number from 0 on")
    known = PARAMETERS.get(name, {})
    for key, value in given.items():
        if key not in known:
            allowed = ("weight", *known)
            raise ValueError(f"loss {name} takes no {key!r}{_nearest(key, allowed)} (allowed: {', '.join(allowed)})")
        _, least, most, whole = known[key]
        if not _number(value) or not least <= value <= most or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise ValueError(f"loss {name}: {key} {value!r} is not a {kind} from {least:g} to {most:g}")
    parameters = {key: given.get(key, parameter.default) for key, parameter in known.items()}
    if name == "tversky" and not parameters["alpha"] and not parameters["beta"]:
        raise ValueError("loss tversky: alpha and beta are both 0, so that no error would count")
    return Term(float(weight), parameters)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest(name: object, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name).replace("-", "_").lower(), allowed, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""
