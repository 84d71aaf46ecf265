from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo.models.depth import REDUCTIONS
from zoo.models.unet3plus import (
    UNet3Plus,
    build_unet3plus_base,
    build_unet3plus_enhanced_glu_tiny,
    build_unet3plus_tiny,
    gate,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "unet3plus.safetensors"
SMALL = (4, 8, 16, 32, 64)
# layers: plain, with deep supervision, with the classification-guided module besides
PARAMETERS = {
    1: (26_970_625, 26_988_485, 26_990_535),
    3: (26_971_777, 26_989_637, 26_991_687),
    64: (27_006_913, 27_024_773, 27_026_823),
    65: (27_007_489, 27_025_349, 27_027_399),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def reference_names() -> Iterator[tuple[str, str]]:
    """Ours, theirs: parts of five levels."""
    for level in range(5):
        for conv in range(2):
            for part in range(2):
                yield f"encoder.{level}.block.{conv}.{part}", f"conv{level + 1}.conv{conv + 1}.{part}"
    for node in range(4):
        for source in range(5):
            way = "PT" if source < node else "Cat" if source == node else "UT"
            letters = "h" if source <= node else "hd"
            theirs = f"{letters}{source + 1}_{way}_hd{node + 1}"
            yield f"decoder.{node}.branches.{source}.0.conv", f"{theirs}_conv"
            yield f"decoder.{node}.branches.{source}.1", f"{theirs}_bn"
        yield f"decoder.{node}.fuse.0", f"conv{node + 1}d_1"
        yield f"decoder.{node}.fuse.1", f"bn{node + 1}d_1"
    yield "outputs.0", "outconv1"


@pytest.fixture
def reference() -> tuple[UNet3Plus, dict[str, Tensor]]:
    """Our network with the weights of the public one, all of them, and its answers."""
    golden = load_file(GOLDEN)
    state = {}
    for ours, theirs in reference_names():
        found = {key: value for key, value in golden.items() if key.startswith(f"weights.{theirs}.")}
        state |= {f"{ours}.{key.removeprefix(f'weights.{theirs}.')}": value for key, value in found.items()}
    assert len(state) == sum(key.startswith("weights.") for key in golden)
    model = build_unet3plus_base(depth=3, tile=64, filters=SMALL)
    model.load_state_dict(state)
    return model, golden


@pytest.mark.parametrize("training", [False, True])
def test_it_answers_as_the_public_implementation(reference, training):
    model, golden = reference
    with torch.no_grad():
        answer = model.train(training)(golden["x"][:, None]).sigmoid()
    torch.testing.assert_close(answer, golden["y_train" if training else "y_eval"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", PARAMETERS)
def test_it_has_as_many_parameters_as_published(layers):
    forms = ((False, False), (True, False), (True, True))
    with torch.device("meta"):
        models = [build_unet3plus_base(depth=layers, tile=64, deep_supervision=deep, cgm=cgm) for deep, cgm in forms]
    assert tuple(sum(p.numel() for p in model.parameters()) for model in models) == PARAMETERS[layers]


def test_deep_supervision_gives_a_head_on_every_level():
    model = build_unet3plus_base(depth=3, tile=64, filters=SMALL, deep_supervision=True, classes=2)
    logits = model.heads(torch.randn(2, 1, 3, 64, 32)).logits
    assert [tuple(head.shape) for head in logits] == [(2, 2, 64 // 2**k, 32 // 2**k) for k in range(5)]


@pytest.mark.parametrize("classes", [1, 3])
def test_the_gate_multiplies_the_probability_of_ink(classes):
    logits, presence = torch.randn(4, classes, 5, 6), 3 * torch.randn(4, 2)
    present = presence.softmax(dim=1)[:, 1, None, None, None]
    answer = gate(logits, presence)
    if classes == 1:
        torch.testing.assert_close(answer.sigmoid(), present * logits.sigmoid())
    else:
        torch.testing.assert_close(answer.softmax(1)[:, 1:], present * logits.softmax(1)[:, 1:])


@pytest.mark.parametrize("classes", [1, 3])
def test_a_closed_gate_says_no_ink_and_an_open_one_nothing(classes):
    logits = (5 * torch.randn(2, classes, 4, 4)).requires_grad_()
    closed = gate(logits, torch.tensor([[100.0, -100.0]] * 2))
    ink = closed.sigmoid() if classes == 1 else 1 - closed.softmax(1)[:, :1]
    assert ink.max() < 1e-6
    closed.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    torch.testing.assert_close(gate(logits, torch.tensor([[-100.0, 100.0]] * 2)).softmax(1), logits.softmax(1))


def test_the_gate_learns_from_the_masks_and_from_its_own_logits():
    model = build_unet3plus_tiny(depth=4, tile=32, cgm=True).train()
    heads = model.heads(torch.randn(2, 1, 4, 32, 32))
    assert heads.aux["presence"].shape == (2, 2)
    assert model.presence is not None
    weight = model.presence.get_parameter("classify.1.weight")
    for loss in (heads.logits[0].sigmoid().mean(), heads.aux["presence"].square().sum()):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


def test_checkpointed_steps_leave_the_same_state():
    """Answer and gradient are the contract's; the statistics of BatchNorm count each batch once."""
    volume, states = torch.randn(2, 1, 4, 32, 32), []
    for again in (False, True):
        torch.manual_seed(1)
        model = build_unet3plus_enhanced_glu_tiny(depth=4, tile=32, cgm=True).train()
        model.set_grad_checkpointing(again)
        for _ in range(2):
            heads = model.heads(volume)
            torch.stack([head.square().mean() for head in heads.logits]).sum().backward()
        states.append(model.state_dict())
    assert int(states[1]["encoder.0.block.0.1.num_batches_tracked"]) == 2
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)


@pytest.mark.parametrize("reduction", ["channels", *REDUCTIONS])
@pytest.mark.parametrize("stem", [0, 4])
def test_layers_come_in_by_any_reduction(reduction, stem):
    model = build_unet3plus_base(depth=5, tile=32, filters=(4, 8, 16), reduction=reduction, stem=stem)
    assert model.out_stride == (4 if stem else 1) and model.multiple == 4 * model.out_stride
    assert model(torch.randn(1, 1, 5, 32, 48)).shape == (1, 1, 32, 48)


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_upsampling_can_be_chosen(upsampling):
    model = build_unet3plus_tiny(depth=4, tile=32, upsampling=upsampling)
    assert model(torch.randn(1, 1, 4, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"filters": (8,)}, "two levels or more"),
        ({"filters": (8, 0)}, "two levels or more"),
        ({"reduction": "zcon"}, "reduction 'zcon' is not possible; there are channels, zconv"),
        ({"upsampling": "cubic"}, "upsampling 'cubic' is not possible; there are bilinear"),
        ({"stem": -1}, "stem -1 is not possible"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        build_unet3plus_tiny(depth=4, tile=32, **options)
