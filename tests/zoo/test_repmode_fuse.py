"""One task's network with its experts fused: its size, its answers, its file."""

import copy

import pytest
import torch
from torch import nn

from data_recipes.tiles import InputContract
from zoo.checkpoint import load_checkpoint, save_checkpoint
from zoo.models.mode_conv import MoDEConv3d
from zoo.models.repmode import FusedRepMode, RepMode, build_repmode, build_repmode_fused, build_repmode_tiny
from zoo.models.repmode_net import RepModeNet, fuse_net
from zoo.registry import create_model, model_card

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
CONTRACT = InputContract(depth=5, tile=32, stored_dtype="uint8")
OPTIONS = [
    {},
    {"decoder": "2d"},
    {"reduction": "tensor", "experts": [(1, 5, 5), (5, 1, 1), ("avg", 3, 3, 3)]},
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def trained(**options) -> RepMode:
    """A model whose norms have seen a mixed batch, with scales and shifts of their own."""
    model = build_repmode_tiny(depth=5, tile=32, tasks=3, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model.train()(torch.randn(4, 1, 5, 32, 32), torch.tensor([2, 0, 2, 1]))
    return model.eval()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("fold_norm", [False, True])
def test_fused_for_a_task_it_answers_as_the_model_does_for_that_task(options, fold_norm):
    model, volume = trained(**options), torch.randn(2, 1, 5, 32, 32)
    with torch.no_grad():
        answers = [model(volume, torch.tensor([task, task])) for task in range(3)]
        for task in range(3):
            fused = model.fuse(task, fold_norm=fold_norm)
            torch.testing.assert_close(fused(volume), answers[task], **CLOSE)
    assert not torch.allclose(answers[0], answers[1], atol=0.01)


@pytest.mark.parametrize("fold_norm", [False, True])
def test_nothing_but_plain_convolutions_is_left(fold_norm):
    fused = trained().fuse(1, fold_norm=fold_norm)
    assert isinstance(fused, FusedRepMode) and not fused.training
    kinds = {type(module) for module in fused.modules()}
    assert MoDEConv3d not in kinds and nn.Linear not in kinds
    assert (nn.BatchNorm3d in kinds) is not fold_norm


@pytest.mark.parametrize(("fold_norm", "parameters"), [(False, 100_152_768), (True, 100_148_864)])
def test_at_the_published_width_it_has_the_published_number_of_parameters(fold_norm, parameters):
    with torch.device("meta"):
        net = fuse_net(RepModeNet(tasks=12), 3, fold_norm=fold_norm)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_fusing_leaves_the_model_as_it_was_and_shares_nothing_with_it():
    model = trained()
    before = copy.deepcopy(model.state_dict())
    fused = model.fuse(fold_norm=True)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("fold_norm", [False, True])
def test_saved_and_loaded_like_any_model(tmp_path, options, fold_norm):
    fused, volume = trained(**options).fuse(2, fold_norm=fold_norm), torch.randn(1, 1, 5, 32, 32)
    name, given = fused.name_and_options()
    path = tmp_path / "fused.safetensors"
    save_checkpoint(path, fused, name=name, options=given, contract=CONTRACT, config={})
    loaded = load_checkpoint(path)
    with torch.no_grad():
        assert torch.equal(loaded.model(volume), fused(volume))
    assert loaded.options["task"] == 2 and loaded.options["of"] == "repmode_tiny"
    assert loaded.options["options"]["tasks"] == 3


def test_the_kernel_of_an_average_alone_can_be_read_and_trained():
    fused = build_repmode_tiny(depth=2, tile=32, experts=[("avg", 3, 3, 3)]).fuse()
    with torch.no_grad():
        fused.net.last.weight[..., 0, 0, 0] = 7.0
        assert not (fused.net.last.weight[..., 1, 1, 1] == 7.0).any()


def test_any_width_can_be_fused_and_built_again():
    fused = build_repmode(depth=3, tile=32, width=2, classes=2).fuse()
    name, options = fused.name_and_options()
    again = create_model(name, depth=3, tile=32, classes=2, **options)
    again.load_state_dict(fused.state_dict())
    assert again.out_stride == 1 and again(torch.zeros(1, 1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_it_has_a_card():
    assert model_card("zoo.models.repmode:build_repmode_fused").family == "repmode"
    assert build_repmode_fused(depth=2, tile=32).card.name == "repmode_fused"


def test_its_own_task_may_be_given_and_no_other():
    fused, volume = trained().fuse(1), torch.zeros(2, 1, 5, 32, 32)
    assert torch.equal(fused(volume, torch.tensor([1, 1])), fused(volume))
    with pytest.raises(ValueError, match=r"fused for task 1; got \[0, 1\]: fuse one network for each task"):
        fused(volume, torch.tensor([1, 0]))


def test_what_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match="cannot fuse for task 3, built for 0 to 2"):
        trained().fuse(3)
    with pytest.raises(ValueError, match="of 'sam' is not possible; one of repmode_tiny"):
        build_repmode_fused(depth=2, tile=32, of="sam")
    with pytest.raises(ValueError, match="options {'widht': 3} do not fit repmode"):
        build_repmode_fused(depth=2, tile=32, of="repmode", options={"widht": 3})
