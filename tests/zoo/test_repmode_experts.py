"""Experts other than the paper's five, and kernels no larger than what can reach a voxel."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.mode_conv import PAPER_EXPERTS, FusedConv3d, MoDEConv3d, parse_experts
from zoo.models.repmode import build_repmode_tiny

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
MIXTURES = [
    PAPER_EXPERTS,
    [(1, 5, 5), (5, 1, 1)],
    [(1, 1, 1)],
    [("avg", 3, 5, 1)],
    [("avg", 5, 5, 5), (1, 3, 3)],
    [(3, 1, 5), ("avg", 1, 3, 3), (1, 3, 1), ("avg", 3, 1, 5), (1, 1, 1)],
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def branches(conv: MoDEConv3d, volume: Tensor, task: int) -> Tensor:
    """What the mixture means: each expert computed apart, weighed, summed."""
    total = torch.zeros(())
    for expert, gate in zip(conv.experts, conv.gates()[task], strict=True):
        half = [side // 2 for side in expert.shape]
        weight = getattr(conv, expert.name)
        if expert.average:
            wide = F.pad(F.conv3d(volume, weight), [pad for side in reversed(half) for pad in (side, side)])
            branch = F.avg_pool3d(wide, expert.shape, stride=1)
        else:
            branch = F.conv3d(volume, weight, padding=half)
        total = total + gate[:, None, None, None] * branch
    return total


@pytest.mark.parametrize("flat", [False, True], ids=["3d", "flat"])
@pytest.mark.parametrize("experts", MIXTURES)
def test_a_mixture_is_the_weighed_sum_of_its_experts(experts, flat):
    conv = MoDEConv3d(2, 3, tasks=2, experts=experts, flat=flat)
    volume = torch.randn(2, 2, 1 if flat else 7, 6, 8)
    torch.testing.assert_close(conv(volume, ((1, 2),)), branches(conv, volume, 1), **CLOSE)


@pytest.mark.parametrize("extent", [(1, 1, 1), (1, 4, 4), (2, 2, 8), (2, 9, 1), (3, 1, 2)])
@pytest.mark.parametrize("experts", [MIXTURES[0], MIXTURES[5]], ids=["paper", "others"])
def test_small_volumes_are_computed_right_with_the_taps_that_reach(experts, extent):
    conv = MoDEConv3d(2, 3, experts=experts)
    volume = torch.randn(2, 2, *extent)
    expected = branches(conv, volume, 0)
    torch.testing.assert_close(conv(volume), expected, **CLOSE)
    torch.testing.assert_close(FusedConv3d(conv.kernel(0).detach())(volume), expected, **CLOSE)
    gradients = torch.autograd.grad(conv(volume).square().sum(), list(conv.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(conv.parameters()))
    torch.testing.assert_close(gradients, wanted, **CLOSE)


def test_no_tap_is_convolved_that_only_meets_padding(monkeypatch):
    kernels = []
    plain = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda *args, **kw: kernels.append(tuple(args[1].shape[2:])) or plain(*args, **kw))
    conv = MoDEConv3d(1, 1)
    conv(torch.zeros(1, 1, 1, 2, 7))
    FusedConv3d(conv.kernel(0).detach())(torch.zeros(1, 1, 1, 2, 7))
    assert kernels == [(1, 3, 5), (1, 3, 5)]


def test_the_fused_kernel_is_in_each_axis_as_long_as_the_longest_expert():
    assert MoDEConv3d(1, 1, experts=[(1, 5, 5), (5, 1, 1)]).kernel(0).shape == (1, 1, 5, 5, 5)
    assert MoDEConv3d(1, 1, experts=[(1, 5, 3), ("avg", 3, 1, 1)]).kernel(0).shape == (1, 1, 3, 5, 3)
    assert MoDEConv3d(1, 1, experts=[(1, 5, 3), (5, 1, 1)], flat=True).kernel(0).shape == (1, 1, 1, 5, 3)


def test_experts_are_named_for_their_shape():
    names = [expert.name for expert in parse_experts([*PAPER_EXPERTS, (1, 5, 5), ("avg", 3, 1, 1)])]
    assert names == ["conv5", "conv3", "conv1", "avg3", "avg5", "conv1x5x5", "avg3x1x1"]


@pytest.mark.parametrize(
    ("experts", "complaint"),
    [
        ([(2, 3, 3)], r"expert \[2, 3, 3\] is not possible; a kernel shape of three odd sides"),
        ([(3, 3)], r"expert \[3, 3\] is not possible"),
        ([("max", 3, 3, 3)], r"expert \['max', 3, 3, 3\] is not possible.*or \[avg, 3, 3, 3\]"),
        ([(-1, 3, 3)], "is not possible"),
        ([(3, 3, 3), (3, 3, 3)], "experts conv3, conv3: give one or more, each of them once"),
        ([], r"experts \(none\)"),
    ],
)
def test_experts_that_cannot_be_are_refused(experts, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_experts(experts)


@pytest.mark.parametrize("decoder", ["3d", "2d"])
def test_a_model_takes_other_experts_and_names_them(decoder):
    model = build_repmode_tiny(depth=5, tile=32, tasks=2, experts=[(1, 5, 5), ("avg", 3, 1, 1)], decoder=decoder)
    heads = model.heads(torch.randn(2, 1, 5, 32, 32), torch.tensor([1, 0]))
    assert model.expert_names() == ("conv1x5x5", "avg3x1x1")
    assert heads.aux["gates"].shape == (11, 2, 2)


def test_layers_are_named_in_the_order_of_the_gates():
    model = build_repmode_tiny(depth=5, tile=32)
    assert model.expert_names() == ("conv5", "conv3", "conv1", "avg3", "avg5")
    names = model.mode_layers()
    assert names[:2] == ["encoder.0.first", "encoder.0.second"] and names[-1] == "last" and len(names) == 11
    with torch.no_grad():
        model.net.bottleneck.second.conv.gate.bias[64:128] += 3  # the second expert of 64 channels
    gates = model.gates()[:, 0]
    assert [name for name, gate in zip(names, gates, strict=True) if gate[1] > 0.5] == ["bottleneck.second"]
