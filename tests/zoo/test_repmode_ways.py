"""RepMode's 2D decoder, activation checkpointing, and tracing whole."""

import pytest
import torch
from torch import nn

from zoo.models.depth import REDUCTIONS
from zoo.models.mode_conv import MoDEConv3d
from zoo.models.repmode import build_repmode_small, build_repmode_tiny

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("depth", [1, 5, 8])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_2d_decoder_takes_every_reduction_and_depth(reduction, depth):
    model = build_repmode_tiny(depth=depth, tile=32, classes=2, reduction=reduction, decoder="2d").train()
    logits = model.heads(torch.randn(2, 1, depth, 32, 48)).logits[0]
    assert logits.shape == (2, 2, 8, 12)
    logits.square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent


def test_the_2d_decoder_never_sees_more_than_one_layer():
    model, layers = build_repmode_tiny(depth=8, tile=32, decoder="2d"), []
    for pair in model.net.decoder:
        pair.register_forward_hook(lambda _module, inputs, _output: layers.append(inputs[0].shape[2]))
    model(torch.randn(1, 1, 8, 32, 32))
    assert layers == [1, 1]
    flat = [m for m in model.net.decoder.modules() if isinstance(m, MoDEConv3d)]
    assert {conv.kernel(0).shape[2:] for conv in flat} == {(1, 5, 5)}


def test_the_2d_decoder_sees_the_order_of_the_layers_and_tells_tasks_apart():
    model = build_repmode_tiny(depth=8, tile=32, decoder="2d", tasks=2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    volume, mixed = torch.randn(2, 1, 8, 32, 32), torch.tensor([1, 0])
    with torch.no_grad():
        model.train()(volume, mixed)
        model.eval()
        answer = model(volume, mixed)
        assert (answer - model(volume.flip(2), mixed)).abs().max() > 0.01
        assert (answer - model(volume, 1 - mixed)).abs().max() > 0.01
        torch.testing.assert_close(model(volume[1:], mixed[1:]), answer[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", ["3d", "2d"])
def test_checkpointing_changes_neither_gradients_nor_statistics(decoder):
    def step(checkpointing: bool):
        torch.manual_seed(1)
        model = build_repmode_tiny(depth=5, tile=32, tasks=2, decoder=decoder).train()
        model.set_grad_checkpointing(checkpointing)
        model(torch.randn(3, 1, 5, 32, 32), torch.tensor([1, 0, 1])).square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())

    torch.testing.assert_close(step(True), step(False), atol=0, rtol=0)


def test_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpointing: bool) -> int:
        model = build_repmode_tiny(depth=8, tile=32).train()
        model.set_grad_checkpointing(checkpointing)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        held: dict[int, int] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(4, 1, 8, 64, 64)).sum().backward()
        return sum(held.values())

    assert build_repmode_tiny(depth=8, tile=32).can_checkpoint
    assert kept(True) < 0.6 * kept(False)


@pytest.mark.parametrize("options", [{}, {"decoder": "2d"}, {"reduction": "tensor"}], ids=str)
def test_it_is_traced_whole(options):
    model = build_repmode_tiny(depth=5, tile=32, **options).eval()
    volume = torch.randn(1, 1, 5, 32, 32)
    torch._dynamo.reset()
    with torch.no_grad():
        traced = torch.compile(model, backend="eager", fullgraph=True)(volume)
        torch.testing.assert_close(traced, model(volume), **CLOSE)
        exported = torch.export.export(model, (volume,)).module()(volume)
        torch.testing.assert_close(exported, model(volume), **CLOSE)


def test_fused_it_is_traced_whole():
    fused = build_repmode_tiny(depth=5, tile=32, tasks=2).fuse(1, fold_norm=True)
    volume = torch.randn(1, 1, 5, 32, 32)
    torch._dynamo.reset()
    with torch.no_grad():
        traced = torch.compile(fused, backend="eager", fullgraph=True)(volume)
        torch.testing.assert_close(traced, fused(volume), **CLOSE)


def test_the_small_variant_answers_at_half_the_resolution():
    model = build_repmode_small(depth=5, tile=32)
    assert model.heads(torch.randn(1, 1, 5, 32, 32)).logits[0].shape == (1, 1, 16, 16)
    assert len(model.mode_layers()) == 15
    assert 5_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 10_000_000


def test_a_decoder_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="repmode_tiny: unknown decoder '4d'; there are 3d, 2d"):
        build_repmode_tiny(depth=5, tile=32, decoder="4d")
