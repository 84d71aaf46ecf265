from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo.models.elunet import ELUNet, build_elunet_base, build_elunet_enhanced_glu_tiny, build_elunet_tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "elunet.safetensors"
# the public reading names its arrows by channels; these weights serve two arrows, all others one
SHARED = ("up_512_256", "up_256_128", "up_128_64")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def reference_names() -> Iterator[tuple[str, str]]:
    """Ours, theirs: parts of five levels, deepest arrow first."""
    channels = (64, 128, 256, 512, 1024)
    for level in range(5):
        theirs = "in_conv" if level == 0 else f"down_{level}.down_sample.1"
        for conv in range(2):
            for part in range(2):
                yield f"encoder.{level}.block.{conv}.{part}", f"{theirs}.double_conv.{3 * conv + part}"
    for node in range(4):
        for arrow, source in enumerate((node + 1, *reversed(range(node, 4)))):
            theirs = f"up_{channels[source]}_{channels[node]}"
            yield f"decoder.{node}.arrows.{arrow}.conv", f"{theirs}.conv_3"
            for step in range(source - node):
                yield f"decoder.{node}.arrows.{arrow}.grow.{step}", f"{theirs}.upsample.{step}"
        for conv in range(2):
            for part in range(2):
                yield f"decoder.{node}.block.{conv}.{part}", f"dec_{node + 1}.double_conv.{3 * conv + part}"
    yield "output", "out_conv.conv"


@pytest.fixture
def reference() -> tuple[ELUNet, dict[str, Tensor]]:
    """Our network with the weights of the public reading, all of them, and its answers."""
    golden = load_file(GOLDEN)
    state, used = {}, set()
    for ours, theirs in reference_names():
        found = [key for key in golden if key.startswith(f"weights.{theirs}.")]
        assert used.isdisjoint(found) or theirs.split(".")[0] in SHARED
        used |= set(found)
        state |= {f"{ours}.{key.removeprefix(f'weights.{theirs}.')}": golden[key] for key in found}
    assert used == {key for key in golden if key.startswith("weights.")}
    model = build_elunet_base(depth=3, tile=48, width=4, upsampling="transposed")
    model.load_state_dict(state)
    return model, golden


@pytest.mark.parametrize("training", [False, True])
def test_it_answers_as_the_public_reading(reference, training):
    model, golden = reference
    with torch.no_grad():
        answer = model.train(training)(golden["x"][:, None])
    torch.testing.assert_close(answer, golden["y_train" if training else "y_eval"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("upsampling", "parameters"), [("bilinear", 646_729), ("transposed", 846_121)])
def test_it_has_as_many_parameters_as_published(upsampling, parameters):
    with torch.device("meta"):
        model = build_elunet_base(depth=3, tile=64, upsampling=upsampling)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_deeper_encoder_level_reaches_every_decoder_block():
    """Deep skips: with the decoder blocks below cut off, an encoder level still moves the finest one."""
    model = build_elunet_base(depth=1, tile=32, width=2).eval()
    finest = model.decoder[0]
    sources = [torch.randn(1, channels, side, side) for channels, side in ((4, 16), (16, 4), (8, 8), (4, 16), (2, 32))]
    plain = finest(*sources)
    for number in range(len(sources)):
        moved = [source + (index == number) for index, source in enumerate(sources)]
        assert not torch.equal(finest(*moved), plain), f"source {number}"


def test_checkpointed_steps_leave_the_same_state():
    volume, states = torch.randn(2, 1, 4, 32, 32), []
    for again in (False, True):
        torch.manual_seed(1)
        model = build_elunet_enhanced_glu_tiny(depth=4, tile=32).train()
        model.set_grad_checkpointing(again)
        for _ in range(2):
            model(volume).square().mean().backward()
        states.append(model.state_dict())
    assert int(states[1]["encoder.0.block.0.1.num_batches_tracked"]) == 2
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)


def test_levels_and_stem_set_the_sides_it_takes():
    assert build_elunet_base(depth=2, tile=32, width=2, levels=4).multiple == 8
    assert build_elunet_tiny(depth=2, tile=32, stem=0, levels=2).multiple == 2
    with pytest.raises(ValueError, match="tile 48 px is not possible; a multiple of 64"):
        build_elunet_base(depth=2, tile=48, width=2, stem=4)


@pytest.mark.parametrize("options", [{"width": 0}, {"levels": 1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="1 and 2 or more"):
        build_elunet_tiny(depth=4, tile=32, **options)
