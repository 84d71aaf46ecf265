"""What every registered model keeps. Registering is testing: nothing here names a model.

Small models run; the large ones are built and called on the meta device, which holds no weights.
"""

from __future__ import annotations

import inspect

import pytest
import safetensors.torch
import torch
from torch import Tensor

from zoo.models.base import InkModel
from zoo.registry import _builder, create_model, list_families, list_models, model_card

LARGE = [name for name in list_models() if name.endswith(("_base", "_b", "_l", "_h"))]
SMALL = [name for name in list_models() if name not in LARGE]
DEPTH = 5


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def least(name: str) -> int:
    card = model_card(name)
    return max(card.min_tile, card.multiple)


def build(name: str, *, depth: int = DEPTH, classes: int = 1) -> InkModel:
    return create_model(name, depth=depth, tile=least(name), classes=classes)


def layers(name: str, *, batch: int = 2, depth: int = DEPTH, extra: int = 0) -> Tensor:
    return torch.randn(batch, 1, depth, least(name), least(name) + extra)


def total(model: InkModel, volume: Tensor) -> Tensor:
    """A scalar that every head and every auxiliary output has a share in, with weights that do not cancel."""
    heads = model.heads(volume)
    outputs = [*heads.logits, *(value for value in heads.aux.values() if value.is_floating_point())]
    return sum(((output.float() - 1) ** 2 * torch.rand(output.shape)).mean() for output in outputs)  # type: ignore[return-value]


def settled(name: str, volume: Tensor) -> InkModel:
    """In evaluation, with BatchNorm statistics of `volume`: with those it starts from, a network is near constant."""
    model = build(name)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(volume)
    return model.eval()


@pytest.mark.parametrize("name", list_models())
def test_its_card_is_true(name: str) -> None:
    card = model_card(name)
    assert card.name == name
    assert card.family in list_families() and name in list_models(card.family)
    assert card.summary
    assert card.depth >= 1 and card.tile >= least(name) and card.tile % card.multiple == 0
    taken = [key for key in inspect.signature(_builder(name)).parameters if key not in ("depth", "tile", "classes")]
    assert sorted(card.options) == sorted(taken), "each option of the builder is explained on the card, and no other"
    assert set(card.init_options) <= set(taken)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("classes", [1, 3])
def test_answers_one_map_a_class_at_full_resolution(name: str, classes: int) -> None:
    card, model = model_card(name), build(name, classes=classes)
    volume = layers(name, extra=card.multiple)
    logits = model(volume)
    assert logits.shape == (2, classes, *volume.shape[-2:])
    assert logits.isfinite().all()
    sides = [head.shape[-1] for head in model.heads(volume).logits]
    assert sides == sorted(sides, reverse=True), "finest first"
    assert sides[0] * card.out_stride == volume.shape[-1]


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_build_and_answer_without_weights(name: str) -> None:
    card = model_card(name)
    with torch.device("meta"):
        model = create_model(name, depth=card.depth, tile=card.tile)
        volume = torch.empty(1, 1, card.depth, card.tile, card.tile)
        assert model(volume).shape == (1, 1, card.tile, card.tile)
        assert model.heads(volume).logits[0].shape[-1] * card.out_stride == card.tile
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_are_small(name: str) -> None:
    assert sum(parameter.numel() for parameter in build(name).parameters()) < 20_000_000


@pytest.mark.parametrize("name", SMALL)
def test_a_side_it_cannot_take_is_refused_with_the_nearest_that_works(name: str) -> None:
    card, model, side = model_card(name), build(name), least(name)
    wrong = side + 1 if card.multiple > 1 else side - 1
    if wrong < 1:
        pytest.skip("takes any side")
    with pytest.raises(ValueError, match=f"W {wrong} px is not possible.*the nearest is {side}"):
        model(torch.zeros(1, 1, DEPTH, side, wrong))
    with pytest.raises(ValueError, match=f"tile {wrong} px is not possible.*the nearest is {side}"):
        create_model(name, depth=DEPTH, tile=wrong)


@pytest.mark.parametrize("name", SMALL)
def test_layers_it_was_not_built_for_are_refused(name: str) -> None:
    model, side = build(name), least(name)
    with pytest.raises(ValueError, match=rf"got {DEPTH + 1} layers, built for {DEPTH}"):
        model(torch.zeros(1, 1, DEPTH + 1, side, side))
    with pytest.raises(ValueError, match=r"expected \(B, 1, D, H, W\)"):
        model(torch.zeros(1, DEPTH, side, side))
    with pytest.raises(ValueError, match="depth 0 is not possible"):
        build(name, depth=0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("depth", [1, 2, 13, 16])
def test_takes_any_number_of_layers_from_one(name: str, depth: int) -> None:
    logits = build(name, depth=depth)(layers(name, depth=depth))
    assert logits.shape[0] == 2 and logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    model = build(name).train()
    total(model, layers(name)).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} has no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"
            assert parameter.grad.any(), f"the gradient of {key} is zero"


@pytest.mark.parametrize("name", SMALL)
def test_in_evaluation_each_sample_has_its_own_answer(name: str) -> None:
    volume = layers(name)
    model = settled(name, volume)
    with torch.no_grad():
        both = model(volume)
        assert torch.equal(both, model(volume)), "the same input gives the same answer"
        torch.testing.assert_close(model(volume[1:]), both[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_state_gives_the_same_bits(name: str) -> None:
    volume = layers(name)
    model, other = settled(name, volume), build(name)
    saved = safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(saved))
    with torch.no_grad():
        assert torch.equal(model(volume), other.eval()(volume))


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_training_step(name: str) -> None:
    def step() -> list[Tensor]:
        torch.manual_seed(7)
        model = build(name).train()
        total(model, layers(name)).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for first, second in zip(step(), step(), strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("depth", [2, DEPTH, 8])
def test_a_step_under_bf16_autocast_is_close_to_one_in_fp32(name: str, depth: int) -> None:
    model, volume = build(name, depth=depth).train(), layers(name, depth=depth)

    def gradient(bf16: bool) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(3)  # the same dropout and the same weights of the outputs
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = total(model, volume)
        dirt = [torch.full((length,), 1e38) for length in (500, 10_000, 100_000, 1_000_000) * 6]
        del dirt  # memory that a faulty kernel forgets to write must not be clean by chance
        loss.backward()
        sizes = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
        return loss.detach(), sizes

    exact, exact_sizes = gradient(bf16=False)
    rough, rough_sizes = gradient(bf16=True)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.1)
    scale = max(exact_sizes.values())
    for key, size in rough_sizes.items():  # rounding may move a small one much, but nothing may be garbage
        assert size <= 10 * exact_sizes[key] + 0.1 * scale, f"the bf16 gradient of {key}"
