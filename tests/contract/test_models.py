"""What every registered model keeps. Registering is testing: nothing here names a model.

Small models run; the large ones are built and called on the meta device, which holds no weights.
"""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from zoo.cost import count_cost, without_weights
from zoo.models.base import InkModel
from zoo.registry import _builder, create_model, list_families, list_models, model_card

RUN_BELOW = 20_000_000  # parameters
DEPTH = 5


@functools.cache
def on_meta(name: str) -> InkModel:
    """As its card has it, without weights; built once for all tests, as some libraries take half a second."""
    card = model_card(name)
    with without_weights():
        return create_model(name, depth=card.depth, tile=card.tile)


def parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in on_meta(name).parameters())


SMALL = [name for name in list_models() if parameters(name) < RUN_BELOW]
LARGE = [name for name in list_models() if name not in SMALL]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    """A small model. Of the module's scope, so that all tests of one run one after another and share what is built."""
    return request.param


def least(name: str) -> int:
    card = model_card(name)
    return max(card.min_tile, card.multiple)


@functools.lru_cache(maxsize=6)
def _first(name: str, depth: int, classes: int) -> InkModel:
    torch.manual_seed(0)
    return create_model(name, depth=depth, tile=least(name), classes=classes)


def build(name: str, *, depth: int = DEPTH, classes: int = 1) -> InkModel:
    """Small and fresh: a copy of what was built, as to draw millions of weights takes longer than a test."""
    model = copy.deepcopy(_first(name, depth, classes))
    torch.manual_seed(0)  # whatever is drawn next must not depend on which tests ran before
    return model


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


@pytest.mark.parametrize("registered", list_models())
def test_its_card_is_true(registered: str) -> None:
    name, card = registered, model_card(registered)
    assert card.name == name
    assert card.family in list_families() and name in list_models(card.family)
    assert card.summary
    assert card.depth >= 1 and card.tile >= least(name) and card.tile % card.multiple == 0
    taken = [key for key in inspect.signature(_builder(name)).parameters if key not in ("depth", "tile", "classes")]
    assert sorted(card.options) == sorted(taken), "each option of the builder is explained on the card, and no other"
    assert set(card.init_options) <= set(taken)


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


def test_training_and_evaluation_give_maps_of_the_same_shape(name: str) -> None:
    model, volume = build(name), layers(name)
    training = model.train().heads(volume)
    evaluation = model.eval().heads(volume)
    assert training.logits[0].shape == evaluation.logits[0].shape
    for heads in (training, evaluation):
        values = [*heads.logits, *heads.aux.values()]
        assert all(value.isfinite().all() for value in values if value.is_floating_point())


@pytest.mark.parametrize("large", LARGE)
def test_large_ones_build_and_answer_without_weights(large: str) -> None:
    card, model = model_card(large), on_meta(large)
    volume = torch.empty(1, 1, card.depth, card.tile, card.tile, device="meta")
    with torch.no_grad():
        assert model(volume).shape == (1, 1, card.tile, card.tile)
        assert model.heads(volume).logits[0].shape[-1] * card.out_stride == card.tile


@pytest.mark.parametrize("registered", list_models())
def test_what_a_tile_costs_can_be_counted(registered: str) -> None:
    cost = count_cost(on_meta(registered))
    assert cost.flops > 0 and cost.activation_bytes > 0
    assert 0 < cost.trainable <= cost.parameters


@pytest.mark.parametrize("registered", list_models())
def test_layer_wise_learning_rates_name_its_parameters(registered: str) -> None:
    model = on_meta(registered)
    scales = model.learning_rate_scales(0.8)
    assert scales.keys() <= dict(model.named_parameters()).keys()
    assert all(0 < scale <= 1 for scale in scales.values())
    assert set(model.learning_rate_scales(1.0).values()) <= {1.0}, "no decay is one rate for all"


def test_a_side_it_cannot_take_is_refused_with_the_nearest_that_works(name: str) -> None:
    card, model, side = model_card(name), build(name), least(name)
    wrong = side + 1 if card.multiple > 1 else side - 1
    if wrong < 1:
        pytest.skip("takes any side")
    with pytest.raises(ValueError, match=f"W {wrong} px is not possible.*the nearest is {side}"):
        model(torch.zeros(1, 1, DEPTH, side, wrong))
    with pytest.raises(ValueError, match=f"tile {wrong} px is not possible.*the nearest is {side}"):
        create_model(name, depth=DEPTH, tile=wrong)


def test_layers_it_was_not_built_for_are_refused(name: str) -> None:
    model, side = build(name), least(name)
    with pytest.raises(ValueError, match=rf"got {DEPTH + 1} layers, built for {DEPTH}"):
        model(torch.zeros(1, 1, DEPTH + 1, side, side))
    with pytest.raises(ValueError, match=r"expected \(B, 1, D, H, W\)"):
        model(torch.zeros(1, DEPTH, side, side))
    with pytest.raises(ValueError, match="depth 0 is not possible"):
        build(name, depth=0)


@pytest.mark.parametrize("depth", [1, 2, 13])
def test_takes_any_number_of_layers_from_one(name: str, depth: int) -> None:
    logits = build(name, depth=depth)(layers(name, depth=depth))
    assert logits.shape[0] == 2 and logits.isfinite().all()


def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    model = build(name).train()
    total(model, layers(name)).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} has no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"
            assert parameter.grad.any(), f"the gradient of {key} is zero"


def test_in_evaluation_each_sample_has_its_own_answer(name: str) -> None:
    volume = layers(name)
    model = settled(name, volume)
    with torch.no_grad():
        both = model(volume)
        assert torch.equal(both, model(volume)), "the same input gives the same answer"
        torch.testing.assert_close(model(volume[1:]), both[1:], atol=1e-4, rtol=1e-4)


def test_a_saved_state_gives_the_same_bits(name: str) -> None:
    volume = layers(name)
    model = settled(name, volume)
    torch.manual_seed(1)  # other weights than those that are to be read
    other = create_model(name, depth=DEPTH, tile=least(name))
    # copies, as in zoo.checkpoint: safetensors refuses tensors that share memory
    saved = safetensors.torch.save({key: value.clone().contiguous() for key, value in model.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(saved))
    with torch.no_grad():
        assert torch.equal(model(volume), other.eval()(volume))


def test_the_same_seed_gives_the_same_training_step(name: str) -> None:
    def step() -> list[Tensor]:
        torch.manual_seed(7)
        model = create_model(name, depth=DEPTH, tile=least(name)).train()
        total(model, layers(name)).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for first, second in zip(step(), step(), strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("depth", [2, DEPTH])
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
    # nor may a large one be lost; rounding alone can take an untrained network's gradients to a quarter, all alike
    for key, size in exact_sizes.items():
        if size > 0.1 * scale:
            assert rough_sizes.get(key, 0.0) >= size / 10, f"the bf16 gradient of {key}"


def test_checkpointed_activations_change_neither_answer_nor_gradient(name: str) -> None:
    volume = layers(name)

    def step(enable: bool) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        model = build(name).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(5)  # the same dropout
        loss = total(model, volume)
        loss.backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        return loss.detach(), gradients, dict(model.named_buffers())

    if not build(name).can_checkpoint:
        with pytest.raises(ValueError, match="not offered"):
            build(name).set_grad_checkpointing()
        return
    kept, computed_again = step(False), step(True)
    for first, second in zip(kept, computed_again, strict=True):
        torch.testing.assert_close(second, first)


def test_is_traced_whole_or_says_why_not(name: str) -> None:
    volume = layers(name)
    model = settled(name, volume)
    why_not = model_card(name).not_traced
    torch.compiler.reset()
    traced = torch.compile(model, backend="eager", fullgraph=True)
    if why_not:
        with pytest.raises(TorchDynamoException):
            traced(volume)
    else:
        torch.testing.assert_close(traced(volume), model(volume))
    torch.compiler.reset()


def test_is_exported_or_says_why_not(name: str) -> None:
    volume = layers(name)
    model = settled(name, volume)
    why_not = model_card(name).not_exported
    if why_not:
        with pytest.raises(RuntimeError):
            torch.export.export(model, (volume,))
    else:
        exported = torch.export.export(model, (volume,)).module()
        torch.testing.assert_close(exported(volume), model(volume))
