"""Every model by name. Nothing is imported before a model or its card is asked for.

To add a model here: its card in `CARDS` of its module, a function `build_<name>` there, its name in `_FAMILIES`.
Another package adds its own through the entry point group `inkzoo.models`
(`my_net = "my_package.my_net:build_my_net"`); anything importable works unregistered as
"my_package.my_net:build_my_net".
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

    from zoo.card import ModelCard
    from zoo.models.base import InkModel

ENTRY_POINT_GROUP = "inkzoo.models"


class _Family(NamedTuple):
    module: str
    tiny: str  # stands for the family on a CPU
    default: str  # stands for the family on a GPU
    models: tuple[str, ...]


_FAMILIES = {
    "repmode": _Family(
        "zoo.models.repmode", "repmode_tiny", "repmode_base", ("repmode_tiny", "repmode_small", "repmode_base")
    ),
    "sam": _Family("zoo.models.sam", "sam_tiny", "sam_vit_b", ("sam_tiny", "sam_vit_b", "sam_vit_l", "sam_vit_h")),
    "depthcnn": _Family("zoo.models.depthcnn", "depthcnn_tiny", "depthcnn_base", ("depthcnn_tiny", "depthcnn_base")),
    "unet3plus": _Family(
        "zoo.models.unet3plus",
        "unet3plus_tiny",
        "unet3plus_base",
        (
            "unet3plus_tiny",
            "unet3plus_base",
            "unet3plus_enhanced",
            "unet3plus_enhanced_glu",
            "unet3plus_enhanced_tiny",
            "unet3plus_enhanced_glu_tiny",
        ),
    ),
    "elunet": _Family(
        "zoo.models.elunet",
        "elunet_tiny",
        "elunet_base",
        (
            "elunet_tiny",
            "elunet_base",
            "elunet_enhanced",
            "elunet_enhanced_glu",
            "elunet_enhanced_tiny",
            "elunet_enhanced_glu_tiny",
        ),
    ),
    "smp": _Family(
        "zoo.models.smp_2d",
        "smp_unet",
        "smp_unet",
        (
            "smp_unet",
            "smp_unetplusplus",
            "smp_manet",
            "smp_linknet",
            "smp_fpn",
            "smp_pspnet",
            "smp_deeplabv3plus",
            "smp_upernet",
            "smp_segformer",
            "smp_dpt",
        ),
    ),
    "monai": _Family(
        "zoo.models.monai_3d",
        "monai_segresnet",
        "monai_segresnet",
        ("monai_segresnet", "monai_unet", "monai_dynunet", "monai_swinunetr"),
    ),
    "zfloor": _Family("zoo.models.zfloor", "zmean", "zmean", ("zmean", "zmax", "zstd", "zbest")),
}


def create_model(name: str, *, depth: int, tile: int, classes: int = 1, **options: Any) -> InkModel:
    """Build the model called `name` for `depth` layers and tiles of `tile` pixels.

    Args:
        name: a full name of `list_models()`, or a foreign "module:builder".
        depth: layers it will take, 1 or more.
        tile: side of a tile in pixels; larger inputs in the model's multiples work as well.
        classes: 1 for a sigmoid, more for a softmax with the background as class 0.
        options: what the builder names besides; `python -m zoo show NAME` lists them.

    Raises:
        ValueError: unknown name (the nearest are listed), unknown option, depth or tile that the model cannot take.
    """
    builder = _builder(name)
    _check_options(name, builder, options)
    model = builder(depth=depth, tile=tile, classes=classes, **options)
    from zoo.models.base import InkModel

    if not isinstance(model, InkModel):
        raise ValueError(f"{name}: the builder returned {type(model).__name__}, expected a zoo.models.base.InkModel")
    return model


def list_models(family: str | None = None) -> list[str]:
    """The registered names, of one family or of all, in the order of the registry. Imports no torch.

    Raises:
        ValueError: no such family.
    """
    if family is None:
        return [name for entry in _FAMILIES.values() for name in entry.models] + sorted(_foreign())
    names = list(_FAMILIES[family].models) if family in _FAMILIES else []
    # only its card, which has to be imported, tells the family of another package's model
    names += [name for name in sorted(_foreign()) if model_card(name).family == family]
    if not names:
        raise ValueError(f"unknown family {family!r}; {_nearest(family, list_families())}")
    return names


def list_families() -> list[str]:
    """The families of this package. Imports no torch."""
    return list(_FAMILIES)


def model_card(name: str) -> ModelCard:
    """The card of a registered model, or of a foreign "module:builder" whose module has `CARDS`.

    Raises:
        ValueError: unknown name, or a module without a card for it.
    """
    module_name, builder_name = _target(name)
    module = _import(name, module_name)
    cards = getattr(module, "CARDS", {})
    for key in (name, builder_name.removeprefix("build_")):
        if key in cards:
            return cards[key]
    raise ValueError(f"{name}: {module_name}.CARDS has no card {builder_name.removeprefix('build_')!r}; add one")


def resolve_name(name: str, device_type: str = "cpu") -> str:
    """A family name -> its tiny variant on a CPU, its default variant elsewhere; any other known name -> itself.

    `device_type`: "cpu", "cuda", … or a torch.device.

    Raises:
        ValueError: neither a family nor a model; the nearest are listed.
    """
    if name in _FAMILIES:
        on_cpu = getattr(device_type, "type", device_type).split(":")[0] == "cpu"
        return _FAMILIES[name].tiny if on_cpu else _FAMILIES[name].default
    _target(name)
    return name


def _target(name: str) -> tuple[str, str]:
    """name -> (module, builder)."""
    for family in _FAMILIES.values():
        if name in family.models:
            return family.module, f"build_{name}"
    target = name if ":" in name else _foreign().get(name, "")
    if target:
        module, _, builder = target.partition(":")
        if module and builder.isidentifier():
            return module, builder
        raise ValueError(f"{target!r} is not of the form package.module:builder")
    if name in _FAMILIES:
        raise ValueError(f"{name!r} is a family, not a model; choose one of {', '.join(_FAMILIES[name].models)}")
    raise ValueError(f"unknown model {name!r}; {_nearest(name, [*list_models(), *list_families()])}")


def _builder(name: str) -> Callable[..., Any]:
    module_name, builder_name = _target(name)
    builder = getattr(_import(name, module_name), builder_name, None)
    if not callable(builder):
        raise ValueError(f"{name}: {module_name} has no builder called {builder_name!r}")
    return builder


def _import(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: cannot import {module}: {error}; is its package installed?") from error


@functools.cache
def _foreign() -> dict[str, str]:
    """The models of other packages: name -> "module:builder". A name of this package cannot be taken over."""
    from importlib.metadata import entry_points  # takes longer to import than all of this file

    own = {name for family in _FAMILIES.values() for name in family.models} | set(_FAMILIES)
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in own}


def _check_options(name: str, builder: Callable[..., Any], options: dict[str, Any]) -> None:
    allowed = [key for key in inspect.signature(builder).parameters if key not in ("depth", "tile", "classes")]
    for key in options:
        if key not in allowed:
            has = f"its options are {', '.join(allowed)}" if allowed else "it has no options"
            raise ValueError(f"{name}: unknown option {key!r}; {has}")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"the nearest are {', '.join(close)}" if close else f"there are {', '.join(known)}"
