"""What an augmentation may be told, checked, and the sets of such settings that go by a name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_recipes.schema import read_yaml

SETS = Path(__file__).parent / "sets"

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

# The field that turns each transform on, in the order in which they act, and the value at which it is off.
OFF: dict[str, Any] = {
    "flips": False,
    "quarter_turns": False,
    "rotation": 0.0,
    "magnification": (1.0, 1.0),
    "elastic": 0.0,
    "depth_shift": 0,
    "depth_reverse": 0.0,
    "layer_swap": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "gain": 0.0,
    "offset": 0.0,
    "layer_drop": 0.0,
    "blur": 0.0,
    "noise": 0.0,
    "cutout": 0.0,
    "cutmix": 0.0,
    "mixup": 0.0,
}

# Of these, the ones whose value is the share of tiles they act on.
_SHARES = ("depth_reverse", "layer_swap", "contrast", "gamma", "blur", "noise", "cutout", "cutmix", "mixup")


class AugmentSettings(BaseModel):
    """How strongly each augmentation acts; 0 or False turns one off.

    Intensities are in standard deviations of the training pixels, as tiles are normalised to; lengths in px of the
    tile. A share is the chance that a tile is chosen, tile by tile. Where a range is given each tile draws from it
    evenly. In place of the fields, a set's name or file may be given (`ink`), or one with changes
    (`{set: ink, cutout: 0}`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Moves: exact, every pixel stays a pixel.
    flips: bool = Field(default=True, description="mirror rows, columns, or both, each in half of the tiles")
    quarter_turns: bool = Field(default=True, description="needs square tiles; together with flips all 8 symmetries")

    # Warps: rotation, magnification and elastic at once, resampled a single time.
    warp: Share = Field(default=1.0, description="share of tiles that are warped; the others are not resampled at all")
    rotation: float = Field(
        default=0.0, ge=0, le=180, description="degrees either way; corners from outside leave the mask"
    )
    magnification: tuple[float, float] = Field(
        default=(1.0, 1.0),
        description="range of factors, .5 to 4; above 1 a part of the tile, anywhere in it, fills it",
    )
    elastic: float = Field(default=0.0, ge=0, description="farthest that a control point moves along each axis, px")
    elastic_spacing: Positive = Field(
        default=24.0, description="px between control points; at least four times `elastic`"
    )

    # Along Z.
    depth_shift: int = Field(default=1, ge=0, description="layers up or down, edges replicated")
    depth_reverse: Share = Field(
        default=0.0,
        description="share of tiles turned upside down; only where the direction is unknown: it hides polarity",
    )
    layer_swap: Share = Field(default=0.0, description="share of tiles in which one layer changes places with the next")
    layer_drop: float = Field(
        default=0.0, ge=0, lt=1, description="share of layers set to the mean; one is always kept"
    )

    # Intensities, the same mapping for all layers of a tile.
    contrast: Share = Field(
        default=0.0, description="share of tiles whose histogram is equalised; mean and deviation stay"
    )
    contrast_cells: int = Field(
        default=1, ge=1, le=16, description="1: over the whole tile; n: in n×n cells, blended (CLAHE)"
    )
    contrast_limit: float = Field(
        default=0.0,
        ge=0,
        description="no grey level counts more than so many times the average one (CLAHE); 0: no limit",
    )
    gamma: Share = Field(
        default=0.0, description="share of tiles whose intensities are raised to a power; mean, deviation stay"
    )
    gamma_range: tuple[Positive, Positive] = Field(
        default=(0.7, 1.5), description="range of the power, on the tile's own scale from 0 to 1"
    )
    gain: float = Field(default=0.25, ge=0, lt=1, description="volume times 1 ± gain")
    offset: float = Field(default=0.3, ge=0, description="volume plus ± offset")
    blur: Share = Field(default=0.0, description="share of tiles that are blurred in the plane of the layers")
    blur_sigma: tuple[Positive, Annotated[float, Field(le=4)]] = Field(
        default=(0.4, 1.2), description="of the Gaussian, px, up to 4"
    )
    noise: Share = Field(default=0.0, description="share of tiles with Gaussian noise, drawn a voxel")
    noise_std: tuple[Positive, float] = Field(default=(0.05, 0.25), description="its range of standard deviations")

    # Cut and mixed.
    cutout: Share = Field(
        default=0.5, description="share of tiles in which one square is set to the mean; its label counts"
    )
    cutout_side: tuple[Share, Share] = Field(default=(0.15, 0.35), description="its side as a share of the tile's")
    cutmix: Share = Field(
        default=0.0, description="share of tiles with a piece of another tile of the batch, label and all"
    )
    cutmix_side: tuple[Share, Share] = Field(
        default=(0.25, 0.6), description="the piece's sides as a share of the tile's"
    )
    mixup: Share = Field(
        default=0.0, description="share of tiles blended with another of the batch; label: share of ink"
    )
    mixup_alpha: Positive = Field(
        default=0.4, description="the blend is Beta(alpha, alpha): 1 even, less nearer to one tile"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, str | Path):
            given = {"set": given}
        if isinstance(given, Mapping) and "set" in given:
            changes = {key: value for key, value in given.items() if key != "set"}
            return {**load_set(given["set"]).model_dump(exclude_unset=True), **changes}
        return given

    @model_validator(mode="after")
    def _possible(self) -> AugmentSettings:
        for name in ("magnification", "gamma_range", "blur_sigma", "noise_std", "cutout_side", "cutmix_side"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low:g} to {high:g}; give the lower end first")
        low, high = self.magnification
        if low < 0.5 or high > 4:
            raise ValueError(f"magnification from {low:g} to {high:g} is not possible; stay within 0.5 and 4")
        if 4 * self.elastic > self.elastic_spacing:
            raise ValueError(
                f"elastic {self.elastic:g} px with control points {self.elastic_spacing:g} px apart could fold the "
                f"tile; lower elastic to {self.elastic_spacing / 4:g} or raise elastic_spacing to {4 * self.elastic:g}"
            )
        return self

    @property
    def warps(self) -> bool:
        """Whether any tile is ever resampled."""
        moved = self.rotation or self.elastic or self.magnification != OFF["magnification"]
        return bool(self.warp and moved)

    def active(self) -> list[str]:
        """The transforms that are on, by the field that turns each on, in the order in which they act."""
        warped = ("rotation", "magnification", "elastic")
        return [
            name for name, off in OFF.items() if getattr(self, name) != off and (self.warp > 0 or name not in warped)
        ]

    def only(self, name: str) -> AugmentSettings:
        """The same with every transform but one off, and that one on all tiles (`layer_drop` keeps its share)."""
        value = 1.0 if name in _SHARES else getattr(self, name)
        return self.model_copy(update={**OFF, name: value, "warp": 1.0})


def list_sets() -> list[str]:
    """The names of the sets that ship with the package."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def load_set(name_or_path: str | Path) -> AugmentSettings:
    """The set of that name, or the one in that YAML file.

    Raises ValueError naming the nearest allowed name or key, FileNotFoundError where a path leads nowhere.
    """
    text = str(name_or_path)
    path = SETS / f"{text}.yaml"
    if text not in list_sets():
        path = Path(text).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            nearest = difflib.get_close_matches(text, list_sets(), 1, 0.0) or list_sets()
            raise ValueError(
                f"unknown set of augmentations {text!r}: nearest is {nearest[0]!r} of {', '.join(list_sets())}; "
                "or give a .yaml file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"no set of augmentations at {path}")
    return read_yaml(path, AugmentSettings)
