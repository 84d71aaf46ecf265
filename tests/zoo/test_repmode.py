from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.models.mode_conv import PAPER_EXPERTS, MoDEConv3d, order_by_task, parse_experts
from zoo.models.repmode import build_repmode_base, build_repmode_tiny
from zoo.models.repmode_net import RepModeNet

EXPERTS = [expert.name for expert in parse_experts(PAPER_EXPERTS)]

GOLDEN = Path(__file__).parents[1] / "golden" / "mode_conv.safetensors"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
# the names of the reference's weights, in the order of EXPERTS
REFERENCE = ("conv5x5_conv", "conv3x3_conv", "conv1x1_conv", "avg3x3_conv", "avg5x5_conv")


class Layer(nn.Module):
    """One MoDE convolution with its BatchNorm and ReLU, holding the weights of the reference."""

    def __init__(self, golden: dict[str, Tensor]):
        super().__init__()
        self.conv = MoDEConv3d(4, 6, tasks=3)
        self.norm = nn.BatchNorm3d(6)
        with torch.no_grad():
            for ours, theirs in zip(EXPERTS, REFERENCE, strict=True):
                getattr(self.conv, ours).copy_(golden[f"weights.expert_{theirs}"])
            self.conv.gate.weight.copy_(golden["weights.gate.weight"])
            self.conv.gate.bias.copy_(golden["weights.gate.bias"])
            self.norm.weight.copy_(golden["weights.subsequent_layer.0.weight"])
            self.norm.bias.copy_(golden["weights.subsequent_layer.0.bias"])

    def forward(self, volume: Tensor, task: Tensor) -> Tensor:
        order, runs = order_by_task(task, len(volume), 3)
        result = F.relu(self.norm(self.conv(volume if order is None else volume[order], runs)))
        return result if order is None else result[order.argsort()]


@pytest.fixture
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def layer(golden) -> Layer:
    return Layer(golden)


@pytest.fixture
def task(golden) -> Tensor:
    return golden["t"].argmax(1)


def test_the_reference_batch_mixes_tasks(task):
    assert len(task.unique()) > 1


def test_gates_equal_the_reference(layer, golden, task):
    torch.testing.assert_close(layer.conv.gates()[task], golden["gate"], **CLOSE)


def test_fused_kernels_equal_the_reference(layer, golden, task):
    kernels = torch.stack([layer.conv.kernel(which) for which in task.tolist()])
    torch.testing.assert_close(kernels, golden["fused_kernels"], **CLOSE)


def test_training_forward_equals_the_reference(layer, golden, task):
    torch.testing.assert_close(layer.train()(golden["x"], task), golden["y_train"], **CLOSE)


def test_evaluation_is_right_for_each_sample_of_a_mixed_batch(layer, golden, task):
    layer.train()(golden["x"], task)
    torch.testing.assert_close(layer.eval()(golden["x"], task), golden["y_eval_per_sample"], **CLOSE)


def test_without_norm_it_equals_the_reference_of_the_last_layer(layer, golden, task):
    order, runs = order_by_task(task, 3, 3)
    volume = golden["x"] if order is None else golden["x"][order]
    result = layer.conv(volume, runs)
    result = result if order is None else result[order.argsort()]
    torch.testing.assert_close(result, golden["y_final_conv"], **CLOSE)


@pytest.mark.parametrize("expert", range(5), ids=EXPERTS)
def test_each_expert_alone_equals_the_reference_branch(layer, golden, expert):
    with torch.no_grad():
        layer.conv.gate.weight.zero_()
        layer.conv.gate.bias.copy_(F.one_hot(torch.tensor(expert), 5)[:, None].expand(5, 6).flatten() * 200.0 - 100.0)
    torch.testing.assert_close(layer.conv(golden["x"]), golden[f"branch.{expert}"], **CLOSE)


def test_gradients_equal_the_reference(layer, golden, task):
    volume = golden["x"].requires_grad_()
    (layer.train()(volume, task) * golden["cotangent"]).sum().backward()
    torch.testing.assert_close(volume.grad, golden["grad_x"], **CLOSE)
    for ours, theirs in zip(EXPERTS, REFERENCE, strict=True):
        torch.testing.assert_close(getattr(layer.conv, ours).grad, golden[f"grad.expert_{theirs}"], **CLOSE)
    torch.testing.assert_close(layer.conv.gate.weight.grad, golden["grad.gate.weight"], **CLOSE)
    torch.testing.assert_close(layer.conv.gate.bias.grad, golden["grad.gate.bias"], **CLOSE)
    torch.testing.assert_close(layer.norm.weight.grad, golden["grad.subsequent_layer.0.weight"], **CLOSE)
    torch.testing.assert_close(layer.norm.bias.grad, golden["grad.subsequent_layer.0.bias"], **CLOSE)


@pytest.mark.parametrize(
    ("width", "tasks", "parameters"),
    [(32, 12, 123_877_633), (32, 2, 123_730_383), (32, 1, 123_715_658), (16, 2, 30_948_079)],
)
def test_the_network_has_the_published_number_of_parameters(width, tasks, parameters):
    with torch.device("meta"):
        net = RepModeNet(widths=[width * 2**level for level in range(5)], tasks=tasks)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert sum(isinstance(module, MoDEConv3d) for module in net.modules()) == 19


def test_the_base_adds_only_its_reduction_to_the_published_network():
    with torch.device("meta"):
        model = build_repmode_base(depth=16, tile=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 123_715_658 + 16 * 9 + 1


def test_one_convolution_a_layer_for_each_distinct_task(monkeypatch):
    calls = []
    plain = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda *args, **kwargs: calls.append(args) or plain(*args, **kwargs))
    conv = MoDEConv3d(2, 2, tasks=4)
    for task, expected in (([1, 1, 1, 1], 1), ([2, 0, 2, 0], 2), ([3, 1, 0, 2], 4)):
        calls.clear()
        conv(torch.randn(4, 2, 5, 5, 5), order_by_task(torch.tensor(task), 4, 4)[1])
        assert len(calls) == expected


def settle(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Give BatchNorm the statistics of this input: with those it starts from, an untrained network is near constant."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval()


def test_a_mixed_batch_gives_each_sample_what_its_task_gives_alone():
    torch.manual_seed(0)
    volume, task = torch.randn(4, 1, 5, 32, 32), torch.tensor([2, 0, 2, 1])
    model = settle(build_repmode_tiny(depth=5, tile=32, tasks=3), volume, task)
    with torch.no_grad():
        mixed = model(volume, task)
        for index in range(4):
            alone = model(volume[index : index + 1], task[index : index + 1])
            torch.testing.assert_close(mixed[index : index + 1], alone, **CLOSE)
        assert not torch.allclose(mixed, model(volume, torch.zeros(4, dtype=torch.long)), atol=0.01)


def test_gates_of_all_layers_and_tasks_are_told_beside_the_logits():
    model = build_repmode_tiny(depth=5, tile=32, tasks=2)
    gates = model.heads(torch.randn(2, 1, 5, 32, 32), torch.tensor([0, 1])).aux["gates"]
    assert gates.shape == (11, 2, 5)
    torch.testing.assert_close(gates.sum(2), torch.ones(11, 2))


@pytest.mark.parametrize("reduction", ["zconv", "mean", "max", "attention"])
def test_takes_every_reduction(reduction):
    model = build_repmode_tiny(depth=5, tile=32, classes=2, reduction=reduction)
    assert model(torch.randn(1, 1, 5, 32, 32)).shape == (1, 2, 32, 32)


def test_the_order_of_the_layers_changes_the_answer():
    torch.manual_seed(0)
    volume = torch.randn(2, 1, 8, 32, 32)
    model = settle(build_repmode_tiny(depth=8, tile=32), volume)
    with torch.no_grad():
        assert (model(volume) - model(volume.flip(2))).abs().max() > 0.01


def test_activations_neither_die_nor_grow_from_layer_to_layer():
    torch.manual_seed(0)
    model = build_repmode_tiny(depth=8, tile=64).train()
    scales = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda _module, _inputs, output: scales.append(output.std().item()))
    logits = model(torch.randn(2, 1, 8, 64, 64))
    assert min(scales) > 0.5 and max(scales) < 2
    assert 0.01 < logits.std() < 1, "the first probabilities are neither all alike nor certain"


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (None, "built for 2 tasks: pass task"),
        (torch.tensor([0]), r"got task of shape \(1,\)"),
        (torch.tensor([0.0, 1.0]), r"expected \(2,\) integers"),
        (torch.tensor([0, 2]), "got task 2, built for 0 to 1"),
        (torch.tensor([-1, 0]), "got task -1, built for 0 to 1"),
    ],
)
def test_a_task_it_cannot_compute_is_refused(task, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_repmode_tiny(depth=2, tile=32, tasks=2)(torch.zeros(2, 1, 2, 32, 32), task)
