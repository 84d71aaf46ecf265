"""Everything that decides how a model is trained, in one object that goes into its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_recipes.augment import AugmentSettings
from data_recipes.schema import describe, read_yaml

BUDGET = ("steps", "tiles_seen", "minutes", "flops")  # the names of one setting
# How the work is done and recorded, and a run may go on under others. To the same weights but for rounding, save with
# smaller micro-batches: BatchNorm has fewer tiles to average over, dropout draws otherwise, and the loss is the mean of
# the parts' own by their tiles, not that of all at once: another one for region losses, and for every other wherever
# parts differ in supervised pixels, which it divides by (`sample_losses` makes all of them the same).
_HOW = {"micro_batch", "checkpoint_minutes", "checkpoint_steps", "channels_last", "grad_checkpointing", "compile"} | {
    "tensorboard",
    "log_every",
    "cache_tiles",
    "num_workers",
    "precision",  # what it came to is compared in its place (`zoo.train.state.identity`)
}


class TrainConfig(BaseModel):
    """The configuration of one training run. The budget is one of `BUDGET`, never two of them; 1,000 steps by default.

    A run ends with the step that reaches its budget, so it passes one of tiles or FLOPs by less than a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: str | dict[str, float | dict[str, float]] = Field(
        "focal+jaccard+ms_ssim", description="names joined by +, or name -> weight, or name -> {weight, parameters}"
    )
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="labels from smoothing to 1 − smoothing")
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    layer_decay: float = Field(1.0, gt=0, le=1, description="rate of a layer to that of the one behind it (ViTs)")
    weight_decay: float = Field(0.05, ge=0, description="not on biases and norms")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the budget in which the rate rises; .3 for one cycle")
    schedule: Literal["cosine", "step"] = Field("cosine", description="step: a tenth from 2/3 and again from 26/27 on")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: not clipped")
    batch_size: int = Field(24, ge=1, description="tiles a step, over all devices and micro-batches together")
    micro_batch: int | None = Field(None, ge=1, description="tiles at once on a device; null: its whole share")
    sample_losses: bool = Field(False, description="the mean of each tile's loss, not one loss over the batch")
    steps: int | None = Field(1000, ge=1)
    tiles_seen: int | None = Field(None, ge=1, description="a tile counts as often as it is seen")
    minutes: float | None = Field(None, gt=0, description="wall time with data loading, without evaluation")
    flops: float | None = Field(None, gt=0, description="of forward and backward passes, as zoo.cost counts them")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: bf16 where the device has it")
    seed: int = Field(0, ge=0)
    augment: AugmentSettings | None = Field(AugmentSettings.model_validate({}), description="null: none")
    degrade: Literal["zmean", "zshuffle"] | None = Field(None, description="input robbed of depth, as a control")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of a moving average of the weights, which is kept")
    average_last: int = Field(0, ge=0, description="keep the mean of so many sets of weights, 1 % of the budget apart")
    validate_every: int | None = Field(None, ge=1, description="steps between validations, on tiles left out for it")
    patience: int | None = Field(None, ge=1, description="stop after so many validations without a better AP")
    checkpoint_minutes: float = Field(5.0, gt=0, description="between two states that --resume can go on from")
    checkpoint_steps: int | None = Field(None, ge=1, description="the same in steps, besides the minutes")
    channels_last: bool = Field(True, description="channels innermost; on a CPU in bf16 1.1 to 1.7 times as fast")
    grad_checkpointing: bool = Field(False, description="compute activations again instead of keeping them")
    compile: bool = Field(False, description="torch.compile the model")
    tensorboard: bool = Field(False, description="scalars and predicted tiles under OUT/tensorboard")
    log_every: int = Field(10, ge=1, description="steps between two lines of the log")
    cache_tiles: bool = Field(False, description="keep tiles in shared memory once read; for compressed layers")
    num_workers: int | None = Field(None, ge=0, description="reading processes; null: by the number of cores")

    @model_validator(mode="before")
    @classmethod
    def _a_budget_instead_of_the_default_steps(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "steps" not in given and any(given.get(key) is not None for key in BUDGET):
            return {**given, "steps": None}
        return given

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        given = [f"{key}={value}" for key in BUDGET if (value := getattr(self, key)) is not None]
        if len(given) != 1:
            raise ValueError(
                f"the budget is {_either(BUDGET)}, exactly one of them; got {' and '.join(given) or 'none of them'}"
            )
        if self.ema and self.average_last:
            raise ValueError(
                f"ema={self.ema} and average_last={self.average_last}: there is one way to average; drop one"
            )
        if self.patience and not self.validate_every:
            raise ValueError(f"patience={self.patience} counts validations, and there are none; set validate_every")
        return self

    @property
    def budget(self) -> str:
        """The budget in words: `300 steps`, `36,000 tiles`, `5 minutes` or `1e+15 FLOPs`."""
        if self.steps is not None:
            return f"{self.steps:,} steps"
        if self.tiles_seen is not None:
            return f"{self.tiles_seen:,} tiles"
        return f"{self.minutes:g} minutes" if self.minutes is not None else f"{self.flops:g} FLOPs"

    def deciding(self) -> dict[str, Any]:
        """What decides the weights that come out; the rest is how the work is done and recorded."""
        return self.model_dump(mode="json", exclude=_HOW)


def told_budget(train: Mapping[str, Any]) -> str:
    """The budget of training settings in words: `300 steps of 16 tiles`, `2 minutes`."""
    config = TrainConfig(**{key: train[key] for key in (*BUDGET, "batch_size") if train.get(key) is not None})
    return config.budget + (f" of {config.batch_size} tiles" if config.steps else "")


def merge_settings(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings out of several layers, such as a suite's, a family's and a command line's; later ones win.

    The budget is one setting with several names: a layer that gives one of them takes away what earlier layers gave of
    any. A budget of None says nothing.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        budget = {key: layer[key] for key in BUDGET if layer.get(key) is not None}
        if budget:
            merged = {key: value for key, value in merged.items() if key not in BUDGET}
        merged |= {key: value for key, value in layer.items() if key not in BUDGET} | budget
    return merged


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a YAML file of training settings says, checked, and nothing that it leaves to the defaults.

    Raises:
        FileNotFoundError, ValueError: no such file; not YAML, an unknown key, a value that is not possible, each named.
    """
    return read_yaml(Path(path), TrainConfig).model_dump(exclude_unset=True)


def load_train_config(*paths: str | Path | None, **overrides: Any) -> TrainConfig:
    """A configuration from YAML files, later ones over earlier ones, or the defaults; every override that is not None
    replaces its field.

    Raises:
        FileNotFoundError, ValueError: as `read_settings`, of the overrides too.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return TrainConfig.model_validate(merge_settings(*(read_settings(path) for path in paths if path), given))
    except ValidationError as error:
        raise ValueError(describe(error, TrainConfig)) from None
