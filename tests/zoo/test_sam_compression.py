import pytest
import torch

from tests.zoo.small_sam import small
from zoo.device import to_channels_last
from zoo.models.sam_compression import COMPRESSIONS, Mosaic, Triples, three_channels


@pytest.mark.parametrize("depth", [1, 2, 3, 16])
def test_the_learnt_one_starts_as_slab_means(depth):
    volume = torch.randn(1, 1, depth, 8, 8)
    image = three_channels(depth)(volume)
    assert image.shape == (1, 3, 8, 8)
    torch.testing.assert_close(image[:, 0], volume[:, 0, : max(1, depth // 3)].mean(1))
    torch.testing.assert_close(image[:, 2], volume[:, 0, 2 * depth // 3 :].mean(1))


@pytest.mark.parametrize("depth", [1, 5, 65])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_all_train_and_answer_at_a_quarter_for_any_depth(compression, depth):
    model = small(compression=compression, depth=depth, tile=32).train()
    heads = model.heads(torch.randn(2, 1, depth, 32, 48))
    assert [head.shape for head in heads.logits] == [(2, 1, 8, 12)]
    (heads.logits[0].square().mean() + heads.aux["iou"].square().mean()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    assert all(p.grad.isfinite().all() for p in model.compress.parameters())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_all_are_traced_whole(compression):
    model = small(compression=compression, depth=4, tile=32)
    volume = torch.randn(1, 1, 4, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(volume), model(volume))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_all_answer_the_same_with_channels_innermost_and_nearly_in_bf16(compression):
    model = small(compression=compression, depth=4, tile=32)
    volume = torch.randn(2, 1, 4, 32, 48)
    with torch.no_grad():
        expected = model(volume)
        to_channels_last(model)
        volume = volume.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(volume), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(volume)
    assert (rough - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_mean_is_a_grey_picture():
    volume = torch.randn(2, 1, 5, 4, 4)
    image = COMPRESSIONS["mean"](5, 32)(volume)
    assert image.shape == (2, 3, 4, 4)
    torch.testing.assert_close(image[:, 1], volume[:, 0].mean(1))


def test_inflated_patches_take_the_layers_themselves():
    model = small(compression="inflated", depth=7)
    assert model.image_encoder.patch_embed.proj.weight.shape == (32, 7, 16, 16)
    volume = torch.randn(1, 1, 7, 32, 32)
    assert torch.equal(model.compress(volume), volume[:, 0])


def test_forty_eight_layers_fill_the_mosaic_in_order():
    volume = torch.arange(48.0).view(1, 1, 48, 1, 1).expand(1, 1, 48, 2, 2)
    image = Mosaic(48)(volume)
    assert image.shape == (1, 3, 8, 8)
    for cell in range(16):
        row, column = 2 * (cell // 4), 2 * (cell % 4)
        assert image[0, :, row, column].tolist() == [3 * cell, 3 * cell + 1, 3 * cell + 2]
        assert image[0, 0, row : row + 2, column : column + 2].unique().numel() == 1


def test_a_mosaic_shows_the_middle_of_many_layers_and_repeats_few():
    assert Mosaic(65).layers == list(range(8, 56))
    few = Mosaic(16).layers
    assert few == [slot // 3 for slot in range(48)]
    assert Mosaic(1).layers == [0] * 48


def test_a_mosaics_masks_come_back_as_the_mean_over_its_cells():
    mosaic, mask = Mosaic(48), torch.randn(2, 3, 5, 6)
    tiled = mask.repeat(1, 1, 4, 4)
    torch.testing.assert_close(mosaic.gather(tiled), mask)
    tiled[:, :, 5:10, 18:24] += 16  # the cell in the second row and fourth column
    torch.testing.assert_close(mosaic.gather(tiled), mask + 1)


def test_a_mosaic_of_256_px_is_sams_own_size():
    with torch.device("meta"):
        model = small(compression="mosaic", tile=256)
    assert model.image_encoder.pos_embed.shape[1:3] == (64, 64)


def test_triples_are_encoded_apart():
    model = small(compression="fused", depth=6)
    volume = torch.randn(1, 1, 6, 32, 32)
    torch.nn.init.normal_(model.compress.attention.score.weight)
    with torch.no_grad():
        first, second = (model.encode(volume[:, 0, layers]) for layers in (slice(0, 3), slice(3, 6)))
        fused = model.embed(volume)
        weight = torch.stack([model.compress.attention.score(e[:, :, None])[:, :, 0] for e in (first, second)])
    weight = weight.softmax(dim=0)
    torch.testing.assert_close(fused, weight[0] * first + weight[1] * second, atol=1e-5, rtol=1e-5)


def test_triples_of_a_depth_that_three_does_not_divide_repeat_the_ends():
    volume = torch.randn(2, 1, 4, 2, 2)
    images = Triples(4, 8)(volume)
    assert images.shape == (4, 3, 2, 2)
    assert torch.equal(images[0], volume[0, 0, [0, 0, 1]])
    assert torch.equal(images[3], volume[1, 0, [2, 3, 3]])


def test_fusion_starts_as_the_mean_of_the_triples():
    embedding = torch.randn(6, 8, 2, 2)
    fused = Triples(7, 8).fuse(embedding)
    torch.testing.assert_close(fused, embedding.view(2, 3, 8, 2, 2).mean(1))
