"""Stored intensities become probabilities as the contract says, over models, moves and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data_recipes.tiles import InputContract
from zoo import create_model
from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.predict.predictor import MAP_TOLERANCE, MOVES, Predictor

DEPTH, SIDE = 4, 32
CPU = torch.device("cpu")
CONTRACT = InputContract(stored_dtype="uint8", depth=DEPTH, tile=SIDE, clip=(20, 200), divisor=200, mean=0.4, std=0.3)


class Corner(InkModel):
    """Answers with the first layer, weighted by a ramp: no two moves of an input give the same."""

    def __init__(self, step: float = 0.0):
        super().__init__(ModelCard("corner", "fake", "for tests"), depth=DEPTH, tile=SIDE)
        self.step = step
        self.calls: list[int] = []

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        self.calls.append(len(volume))
        ramp = torch.linspace(-1, 1, SIDE * SIDE).view(SIDE, SIDE)
        logits = volume[:, :, 0] * ramp
        if torch.is_autocast_enabled("cpu"):
            logits = logits + self.step
        return Heads([logits])


def stacks(count: int = 3, dtype: type = np.uint8) -> np.ndarray:
    top = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(0).integers(0, top, (count, DEPTH, SIDE, SIDE), dtype)


def by_hand(stored: np.ndarray, contract: InputContract, turns: int = 0, flip: bool = False) -> np.ndarray:
    turned = np.rot90(contract.normalise(stored), turns, (2, 3))
    turned = turned[..., ::-1] if flip else turned
    prob = Corner()(torch.from_numpy(turned.copy())[:, None]).sigmoid().numpy()[:, 0]
    return np.rot90(prob[..., ::-1] if flip else prob, -turns, (1, 2))


@pytest.mark.parametrize(
    "contract",
    [
        CONTRACT,
        CONTRACT.model_copy(update={"stored_dtype": "uint16", "to_uint8": "high_byte"}),
        CONTRACT.model_copy(update={"stored_dtype": "uint16", "to_uint8": "clip:1000:50000"}),
    ],
)
def test_every_stored_value_becomes_what_the_contract_makes_of_it(contract: InputContract) -> None:
    stored = stacks(dtype=np.dtype(contract.stored_dtype).type)
    found = Predictor([(Corner(), contract, None)], device=CPU)(stored)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(stored, contract), atol=1e-7)


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flips", 4), ("turns", 4), ("all", 8)])
def test_moves_are_undone_and_averaged(tta, count: int) -> None:
    stored = stacks()
    found = Predictor([(Corner(), CONTRACT, None)], device=CPU, tta=tta)(stored)
    each = [by_hand(stored, CONTRACT, move.turns, move.flip) for move in MOVES[tta]]
    assert len({one.tobytes() for one in each}) == count
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


def test_flips_are_the_four_mirror_images() -> None:
    picture = np.arange(6).reshape(2, 3)
    seen = {
        (np.rot90(picture, move.turns)[:, ::-1] if move.flip else np.rot90(picture, move.turns)).tobytes()
        for move in MOVES["flips"]
    }
    assert seen == {p.tobytes() for p in (picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1])}


def test_several_models_are_averaged_each_in_its_own_normalisation() -> None:
    other, stored = CONTRACT.model_copy(update={"mean": 0.1, "std": 0.7}), stacks()
    found = Predictor([(Corner(), CONTRACT, None), (Corner(), other, None)], device=CPU)(stored)
    np.testing.assert_allclose(found, (by_hand(stored, CONTRACT) + by_hand(stored, other)) / 2, atol=1e-6)


def test_degraded_input_is_degraded_as_in_training() -> None:
    stored = stacks()
    same = np.repeat(stored[:, :1], DEPTH, axis=1)
    plain, mean = (Predictor([(Corner(), CONTRACT, how)], device=CPU) for how in (None, "zmean"))
    np.testing.assert_allclose(mean(same), plain(same), atol=1e-6)
    assert np.abs(mean(stored) - plain(stored)).max() > 0.01


def test_repmode_is_fused_for_its_task_and_answers_the_same() -> None:
    torch.manual_seed(0)
    model = create_model("repmode_tiny", depth=DEPTH, tile=SIDE, tasks=2)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    volume = torch.from_numpy(CONTRACT.normalise(stacks()))[:, None]
    model.eval()
    answers = [model(volume, torch.full((3,), task)).sigmoid()[:, 0].detach().numpy() for task in (0, 1)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    for task in (0, 1):
        found = Predictor([(model, CONTRACT, None)], device=CPU, task=task)(stacks())
        np.testing.assert_allclose(found, answers[task], atol=1e-4)


@pytest.mark.parametrize(("step", "chosen"), [(0.001, "bf16"), (0.5, "fp32")])
def test_a_faster_arithmetic_is_taken_only_where_it_moves_no_grey_value(step: float, chosen: str) -> None:
    predictor = Predictor([(Corner(step), CONTRACT, None)], device=CPU, precision="bf16")
    found, moved = predictor.fastest_precision(stacks(), "bf16")
    assert found == predictor.precision == chosen
    assert (moved <= MAP_TOLERANCE) == (chosen == "bf16")
    assert predictor.fastest_precision(stacks(), "fp32") == ("fp32", 0.0)


def test_only_a_compiled_model_has_its_batches_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    for compiled, calls in ((False, [3]), (True, [5])):
        model = Corner()
        found = Predictor([(model, CONTRACT, None)], device=CPU, compile_models=compiled)(stacks(), fill=5)
        assert model.calls == calls
        np.testing.assert_allclose(found, by_hand(stacks(), CONTRACT), atol=1e-7)
