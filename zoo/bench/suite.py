"""A suite says what a benchmark compares: data, split, recipe, budget and models. YAML in `configs/suites/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data_recipes.schema import read_yaml
from data_recipes.split_spec import SplitSpec
from zoo.configs import config_path
from zoo.train.config import read_settings
from zoo.train.given import settings_file


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Strict):
    """One row of a benchmark: a model with its options, its input, and what of the training differs for it."""

    name: str = Field(description="registered name, family, or module:builder")
    label: str = Field(default="", description="how the leaderboard calls it; the name when empty")
    options: dict[str, Any] = {}
    start_from: str = Field(default="", description="path of a checkpoint whose weights it starts from")
    input: Literal["full", "zmean", "zshuffle"] = "full"
    train: dict[str, Any] = Field(
        default={}, description="training settings that differ for this row; the leaderboard states them"
    )


class Suite(_Strict):
    """Everything that the rows of one leaderboard share."""

    name: str
    about: str = Field(description="what it shows, how long it takes, and the score to expect")
    data: list[str] = Field(default=[], description="paths or phantom:INK:SEED; empty: given with --data")
    split: SplitSpec = SplitSpec()
    models: list[ModelEntry]
    floors: list[str] = ["allink", "layout", "zmean"]
    folds: list[int] = Field(default=[], description="which folds of the split; empty: all")
    seeds: list[int] = [0]
    recipe: str = "edges_buckets_void"
    samples: int | None = Field(default=4000, description="tiles in the training table; none: the recipe's own quotas")
    tile: int = 96
    depth: int = 16
    classes: int = Field(
        default=1, ge=1, description="1: ink or not; more: the label's values; scored is ink against background"
    )
    offset: int = 0
    clip: tuple[float, float] = (0.0, 255.0)
    divisor: float = 255.0
    train: dict[str, Any] = Field(default={}, description="training settings of every row (zoo/train/config.py)")
    overlap: float = Field(
        default=0.5, ge=0, lt=1, description="of neighbouring tiles at prediction, as a share of the tile"
    )
    budgets: list[Annotated[float, Field(gt=0)]] = Field(
        default=[1.0], description="times the budget, such as .5, 1 and 2; 1 is what is ranked, and always run"
    )
    sweep: dict[str, list[Any]] = Field(
        default={}, description="training settings to choose on validation strips, the same for every row"
    )
    labels_turned: bool = Field(
        default=False, description="train and score every model once more on labels turned by 180°: a leak scores there"
    )
    letter_px: int = Field(
        default=256,
        ge=16,
        multiple_of=16,
        description="side of the blocks that are resampled, px; at least a letter's pitch, and whole 16-px blocks; the "
        "default is the pitch of real writing at 7.91 µm, a phantom's is 128",
    )

    @property
    def buffer(self) -> int:
        """px between training and held-out pixels: the suite's, and at least a tile."""
        return max(self.split.buffer or 0, self.tile)


def load_suite(name: str) -> Suite:
    """A suite by its name in `configs/suites/` or by the path of a YAML file.

    Raises:
        ValueError: unknown name (with the nearest), unknown or missing key, wrong type; the message names the key.
    """
    path = config_path("suites", name)
    return read_yaml(path, Suite, defaults={"name": path.stem})


def shipped_settings(name: str, family: str, *, pretrained: bool) -> dict[str, Any]:
    """Training settings that ship for a model (`zoo.train.given.settings_file`); empty where there are none."""
    path = settings_file(name, family, pretrained=pretrained)
    return read_settings(path) if path else {}
