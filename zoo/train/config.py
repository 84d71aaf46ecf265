"""Everything that decides how a model is trained, in one object that goes into its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_recipes.augment import AugmentSettings
from data_recipes.schema import describe, read_yaml

BUDGET = ("steps", "minutes")


class TrainConfig(BaseModel):
    """The configuration of one training run. The budget is `steps` or `minutes`, never both; 1,000 steps by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: str | dict[str, float] = Field("focal+jaccard+ms_ssim", description="names joined by +, or name -> weight")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="labels from smoothing to 1 − smoothing")
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    weight_decay: float = Field(0.05, ge=0, description="not on biases and norms")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the budget in which the rate rises; .3 for one cycle")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: not clipped")
    batch_size: int = Field(24, ge=1)
    steps: int | None = Field(1000, ge=1)
    minutes: float | None = Field(None, gt=0, description="wall time with data loading, without evaluation")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    seed: int = Field(0, ge=0)
    augment: AugmentSettings | None = Field(AugmentSettings.model_validate({}), description="null: none")
    degrade: Literal["zmean", "zshuffle"] | None = Field(None, description="input robbed of depth, as a control")
    channels_last: bool = Field(True, description="channels innermost; on a CPU in bf16 1.1 to 1.7 times as fast")
    log_every: int = Field(10, ge=1, description="steps between two lines of the log")
    num_workers: int | None = Field(None, ge=0, description="reading processes; null: by the number of cores")

    @model_validator(mode="before")
    @classmethod
    def _minutes_instead_of_the_default_steps(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("minutes") is not None and "steps" not in given:
            return {**given, "steps": None}
        return given

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        if (self.steps is None) == (self.minutes is None):
            got = "neither" if self.steps is None else f"steps={self.steps} and minutes={self.minutes}"
            raise ValueError(f"the budget is steps or minutes, exactly one of them; got {got}")
        return self


def merge_settings(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings out of several layers, such as a suite's, a family's and a command line's; later ones win.

    The budget is one setting with two names: a layer that gives `steps` or `minutes` takes away what earlier layers
    gave of either. A budget of None says nothing.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        budget = {key: layer[key] for key in BUDGET if layer.get(key) is not None}
        if budget:
            merged = {key: value for key, value in merged.items() if key not in BUDGET}
        merged |= {key: value for key, value in layer.items() if key not in BUDGET} | budget
    return merged


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a YAML file of training settings says, checked, and nothing that it leaves to the defaults.

    Raises:
        FileNotFoundError, ValueError: no such file; not YAML, an unknown key, a value that is not possible, each named.
    """
    return read_yaml(Path(path), TrainConfig).model_dump(exclude_unset=True)


def load_train_config(path: str | Path | None = None, **overrides: Any) -> TrainConfig:
    """A configuration from a YAML file, or the defaults; every override that is not None replaces its field.

    Raises:
        FileNotFoundError, ValueError: as `read_settings`, of the overrides too.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return TrainConfig.model_validate(merge_settings(read_settings(path) if path else {}, given))
    except ValidationError as error:
        raise ValueError(describe(error, TrainConfig)) from None
