"""What a tile costs, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import create_model
from zoo.card import ModelCard
from zoo.cost import count_cost, count_step_flops, weightless, without_weights
from zoo.models.base import Heads, InkModel

CARD = ModelCard(name="by_hand", family="by_hand", summary="what is counted by hand", depth=3, tile=8)


class Convolution(InkModel):
    """Two 3×3 convolutions, 3 -> 4 -> 1 channels, and a ReLU between them."""

    def __init__(self):
        super().__init__(CARD, depth=3, tile=8)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 1, 3, padding=1)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        return Heads([self.second(F.relu(self.first(volume[:, 0])))])


class Attention(InkModel):
    """A sequence of the tile's pixels, 2 heads of 3 numbers, attends to itself."""

    def __init__(self):
        super().__init__(CARD, depth=3, tile=8)
        self.scale = nn.Parameter(torch.ones(1))

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        rows = (volume[:, 0] * self.scale).flatten(2).transpose(1, 2)[:, None].expand(-1, 2, -1, -1)
        mixed = F.scaled_dot_product_attention(rows, rows, rows)
        return Heads([mixed.mean((1, 3)).reshape(-1, 1, *volume.shape[-2:])])


def on_meta(model: type[InkModel]) -> InkModel:
    with without_weights():
        return model()  # pyright: ignore[reportCallIssue] - the two above take nothing


def test_convolutions_by_hand() -> None:
    cost = count_cost(on_meta(Convolution))
    assert cost.parameters == cost.trainable == (3 * 9 + 1) * 4 + 4 * 9 + 1
    assert cost.flops == 2 * 64 * 9 * (3 * 4 + 4 * 1)
    # the ReLU's answer, which is the second convolution's input too; the first one's input is the volume
    assert cost.activation_bytes == 4 * 64 * 4


def test_a_batch_and_a_larger_tile_cost_their_multiple() -> None:
    model = on_meta(Convolution)
    one, many = count_cost(model), count_cost(model, tile=16, batch=3)
    assert many.flops == 12 * one.flops and many.activation_bytes == 12 * one.activation_bytes
    assert many.parameters == one.parameters


def test_frozen_weights_keep_no_activations() -> None:
    model = on_meta(Convolution).requires_grad_(False)
    cost = count_cost(model)
    assert (cost.trainable, cost.activation_bytes) == (0, 0)
    assert cost.parameters == count_cost(on_meta(Convolution)).parameters


def test_attention_is_counted_as_a_fused_kernel_does_it() -> None:
    cost = count_cost(on_meta(Attention))
    assert cost.flops == 2 * (2 * 64 * 64 * (3 + 3))
    # scaled volume in (the expanded heads are views of it), 2 heads of 64 rows of 3 out, a number a row and head
    assert cost.activation_bytes == 4 * (64 * 3 + 2 * 64 * 3 + 2 * 64)


class Grouped(Convolution):
    """A depthwise convolution before a transposed one of two groups."""

    def __init__(self):
        InkModel.__init__(self, CARD, depth=3, tile=8)
        self.first = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.second = nn.ConvTranspose2d(6, 2, 2, stride=2, groups=2)


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [(Convolution, 64 * 9 * 3 * 4, 64 * 9 * 4), (Grouped, 64 * 9 * 6, 64 * 4 * 6)],
    ids=["plain", "grouped"],
)
def test_a_step_is_every_product_of_both_passes(model: type[InkModel], first: int, second: int) -> None:
    """Three of each convolution; but the first one's input needs no gradient."""
    assert count_cost(on_meta(model)).flops == 2 * (first + second)
    assert count_step_flops(on_meta(model), batch=5) == 5 * 2 * (2 * first + 3 * second)


def test_a_step_on_frozen_weights_needs_their_inputs_gradients_only() -> None:
    model = on_meta(Convolution)
    model.get_submodule("first").requires_grad_(False)
    assert count_step_flops(model) == 2 * 64 * 9 * (3 * 4 + 2 * 4), "nothing is asked for before the second one"
    model = on_meta(Convolution)
    model.get_submodule("second").requires_grad_(False)
    assert count_step_flops(model) == 2 * 64 * 9 * (2 * 3 * 4 + 2 * 4)
    assert count_step_flops(model.requires_grad_(False)) == count_cost(model).flops


def test_a_step_of_attention_is_six_products() -> None:
    assert count_step_flops(on_meta(Attention)) == 3 * count_cost(on_meta(Attention)).flops


@pytest.mark.parametrize("name", ["sam_tiny", "repmode_tiny"])
def test_a_copy_without_weights_costs_what_the_model_costs(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, depth=4, tile=32)
    held = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with without_weights():
        built = create_model(name, depth=4, tile=32)
    assert count_step_flops(weightless(model), batch=2) == count_step_flops(built, batch=2)
    assert count_cost(weightless(model)) == count_cost(built)
    assert all(torch.equal(held[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_counted_is_what_a_step_on_a_cpu_keeps() -> None:
    """The same hooks around a real step: nothing on the meta device is cut short."""
    held: dict[int, torch.UntypedStorage] = {}
    model = Convolution().train()
    own = {tensor.data_ptr() for tensor in model.parameters()}
    volume = torch.zeros(1, 1, 3, 8, 8)

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.heads(volume)
    real = sum(s.nbytes() for key, s in held.items() if key not in own | {volume.data_ptr()})
    assert real == count_cost(on_meta(Convolution)).activation_bytes


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    model = on_meta(Convolution).eval()
    count_cost(model)
    assert not model.training


def test_a_model_of_several_tasks_is_counted_for_one_of_them() -> None:
    with without_weights():
        model = create_model("repmode_tiny", depth=4, tile=32, tasks=2)
    assert count_cost(model, task=1).flops == count_cost(model, task=0).flops > 0


def test_rates_that_a_library_reads_while_it_builds_are_real() -> None:
    with without_weights():
        rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        assert nn.Linear(2, 2).weight.is_meta
    assert rates == [0.0, 0.5, 1.0]


def test_a_model_with_weights_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"by_hand is on cpu; build it under `with without_weights\(\):`"):
        count_cost(Convolution())


def test_a_tile_it_cannot_take_is_refused() -> None:
    with without_weights():
        model = create_model("repmode_tiny", depth=4, tile=32)
    with pytest.raises(ValueError, match="H 33 px is not possible"):
        count_cost(model, tile=33)
