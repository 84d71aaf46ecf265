"""What every augmentation holds to: tile, label and mask stay one, nothing from outside counts, draws are pure."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.augment import AugmentSettings, augment
from data_recipes.augment.settings import OFF

Batch = dict[str, torch.Tensor]

NOTHING = AugmentSettings(**OFF)
STRONG = AugmentSettings(
    rotation=180,
    magnification=(0.6, 2.5),
    elastic=3,
    elastic_spacing=12,
    depth_shift=2,
    depth_reverse=0.5,
    layer_swap=0.7,
    contrast=0.6,
    contrast_cells=3,
    contrast_limit=3,
    gamma=0.6,
    gain=0.5,
    offset=1,
    layer_drop=0.3,
    blur=0.6,
    noise=0.6,
    cutout=0.7,
    cutmix=0.6,
    mixup=0.6,
)
MIXED = ("cutmix", "mixup")
UNDRAWN = ("depth_reverse", "contrast")  # on all tiles there is nothing left to draw
WARPS = ("rotation", "magnification", "elastic")


def made(settings: AugmentSettings, **changed: object) -> AugmentSettings:
    return AugmentSettings.model_validate({**settings.model_dump(), **changed})


def batch(size: int = 6, depth: int = 5, height: int = 24, width: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(size, 1, depth, height, width, generator=generator)
    label = (torch.rand(size, 1, height, width, generator=generator) < 0.4).to(torch.uint8)
    mask = torch.rand(size, 1, height, width, generator=generator) < 0.8
    return {"volume": volume, "label": label, "mask": mask, "index": torch.arange(size)}


def planted(size: int = 6, depth: int = 3, height: int = 32, width: int = 32) -> Batch:
    """Every layer shows the label: a disc, off the middle, of another size and place in every tile; ink is 1."""
    y, x = torch.arange(height).view(-1, 1), torch.arange(width)
    discs = [
        (y - height * 0.3 - tile) ** 2 + (x - width * 0.6 + 2 * tile) ** 2 < (4 + tile % 4) ** 2 for tile in range(size)
    ]
    label = torch.stack(discs)[:, None].to(torch.uint8)
    volume = label[:, :, None].float().repeat(1, 1, depth, 1, 1)
    return {"volume": volume, "label": label, "mask": torch.ones(size, 1, height, width, dtype=torch.bool)}


def run(given: Batch, settings: AugmentSettings, seed: int = 0, **more: object) -> Batch:
    return augment(given, torch.Generator().manual_seed(seed), settings, **more)  # type: ignore[arg-type]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("volume", "label", "mask"))


# Of what the settings of 0.1.0 gave before there were others; committed results were trained with them.
BEFORE = {
    "default": ({}, 24, "8516a7e4c40120c4"),
    "no_turns": ({"quarter_turns": False}, 32, "6bf502edad3303cc"),
    "no_flips": ({"flips": False}, 24, "bf28b9abff32e1dd"),
    "moves": ({"gain": 0, "offset": 0, "depth_shift": 0, "cutout": 0}, 24, "14323559114173a3"),
    "strong": ({"depth_shift": 3, "cutout": 1.0, "gain": 0.5}, 24, "7bcaa02b7786c2a0"),
    "no_shift": ({"depth_shift": 0}, 24, "7388fdd34a8b2e09"),
}


@pytest.mark.parametrize("case", BEFORE)
def test_the_first_transforms_draw_and_give_what_they_always_did(case: str) -> None:
    changed, width, expected = BEFORE[case]
    size, depth, height = 8, 5, 24
    area = size * height * width
    volume = ((torch.arange(area * depth) * 7919 % 1009).float() / 256 - 2).view(size, 1, depth, height, width)
    label = (torch.arange(area) * 31 % 3).to(torch.uint8).view(size, 1, height, width)
    mask = (torch.arange(area) * 17 % 5 > 0).view(size, 1, height, width)
    digest = hashlib.sha256()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        out = augment({"volume": volume, "label": label, "mask": mask}, generator, AugmentSettings(**changed))
        for key in ("volume", "label", "mask"):
            digest.update(out[key].contiguous().numpy().tobytes())
        digest.update(torch.rand(1, generator=generator).numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


def test_with_all_off_a_copy_comes_out() -> None:
    before = batch()
    out = run(before, NOTHING)
    assert same(out, before)
    assert all(out[key].data_ptr() != before[key].data_ptr() for key in ("volume", "label", "mask"))
    assert out["index"] is before["index"]


@pytest.mark.parametrize("name", OFF)
def test_every_transform_alone_changes_tiles_and_leaves_what_was_given_alone(name: str) -> None:
    before = batch()
    out = run(before, STRONG.only(name))
    assert not torch.equal(out["volume"], before["volume"])
    assert same(before, batch())
    assert out["label"].dtype == (torch.float32 if name == "mixup" else torch.uint8)
    assert out["mask"].dtype == torch.bool
    assert not {*out["label"].unique().tolist()} - {0, 1} or name == "mixup"


@pytest.mark.parametrize("name", OFF)
def test_the_draws_are_the_generators_alone(name: str) -> None:
    settings = STRONG.only(name)
    torch.manual_seed(1)
    one = run(batch(), settings, seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert same(run(batch(), settings, seed=5), one)
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(2).get_state())
    assert not torch.equal(state, torch.get_rng_state())
    differs = any(not same(run(batch(), settings, seed=seed), one) for seed in range(6, 12))
    assert differs == (name not in UNDRAWN)


@pytest.mark.parametrize("name", [name for name in OFF if name not in UNDRAWN])
def test_every_tile_draws_for_itself(name: str) -> None:
    one = batch(1)
    equal = {key: value.repeat(40, *[1] * (value.ndim - 1)) for key, value in one.items()}
    if name in MIXED:
        equal = batch(40)
    out = run(equal, STRONG.only(name))["volume"]
    different = {tuple(tile.flatten().tolist()) for tile in out}
    assert len(different) >= {"flips": 2, "quarter_turns": 4, "layer_swap": 4}.get(name, 5)


@pytest.mark.parametrize("name", [name for name in OFF if name not in MIXED])
def test_what_happens_to_a_tile_does_not_depend_on_the_others(name: str) -> None:
    one, other = batch(), batch(seed=1)
    for key in ("volume", "label", "mask"):
        other[key][0] = one[key][0]
    settings = STRONG.only(name)
    first, second = run(one, settings), run(other, settings)
    assert all(torch.equal(first[key][0], second[key][0]) for key in ("volume", "label", "mask"))


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize(
    ("size", "depth", "height", "width"), [(1, 1, 16, 16), (1, 2, 9, 23), (3, 1, 23, 9), (2, 4, 4, 4)]
)
def test_one_tile_one_layer_and_tiles_that_are_not_square(
    name: str, size: int, depth: int, height: int, width: int
) -> None:
    if name == "quarter_turns" and height != width:
        with pytest.raises(ValueError, match=f"need square tiles, got {height}×{width}; set quarter_turns: false"):
            run(batch(size, depth, height, width), STRONG.only(name))
        return
    before = batch(size, depth, height, width)
    out = run(before, STRONG.only(name))
    assert all(out[key].shape == before[key].shape for key in before)
    assert out["volume"].isfinite().all()


@given(seed=st.integers(0, 2**31), height=st.integers(8, 40), width=st.integers(8, 40), size=st.integers(1, 5))
def test_all_together_keep_shapes_types_and_a_mask_that_only_shrinks_to_what_was_seen(
    seed: int, height: int, width: int, size: int
) -> None:
    before = batch(size, 3, height, width, seed=seed % 1000)
    before["mask"][:] = False
    out = run(before, made(STRONG, quarter_turns=height == width), seed)
    assert out["volume"].isfinite().all()
    assert not out["mask"].any()
    assert out["mask"].dtype == torch.bool
    assert 0 <= float(out["label"].min()) <= float(out["label"].max()) <= 1


@pytest.mark.parametrize("name", [*WARPS, "flips", "quarter_turns", "cutmix", "mixup"])
@given(seed=st.integers(0, 2**31))
def test_a_planted_shape_and_its_label_stay_one(name: str, seed: int) -> None:
    out = run(planted(), STRONG.only(name), seed)
    check_planted(out, blended=name == "mixup")


@given(seed=st.integers(0, 2**31), square=st.booleans())
def test_a_planted_shape_and_its_label_stay_one_under_all_moves_at_once(seed: int, square: bool) -> None:
    moves = (*WARPS, "elastic_spacing", "cutmix")
    settings = made(NOTHING, flips=True, quarter_turns=square, **{name: getattr(STRONG, name) for name in moves})
    check_planted(run(planted(width=32 if square else 50), settings, seed), blended=False)


def check_planted(out: Batch, *, blended: bool) -> None:
    """Where all that a pixel was read from is ink or none is, its label says so; and all layers agree."""
    volume, label, mask = out["volume"][:, 0], out["label"][:, 0].float(), out["mask"][:, 0]
    assert torch.equal(volume, volume[:, :1].expand_as(volume))
    shown = volume[:, 0]
    if blended:
        assert torch.allclose(shown, label, atol=1e-6)
        return
    assert not {*label.unique().tolist()} - {0.0, 1.0}
    assert (label[mask & (shown > 0.999)] == 1).all()
    assert (label[mask & (shown < 0.001)] == 0).all()
    # what is neither is a rim: on each tile fewer pixels than ink and its surroundings
    assert ((shown > 0.001) & (shown < 0.999)).float().mean() < 0.25


@given(seed=st.integers(0, 2**31), width=st.integers(20, 44))
def test_the_mask_is_where_the_tile_was_seen_and_nothing_else(seed: int, width: int) -> None:
    """Layers that hold each pixel's row and column tell where it was read from."""
    size, height = 4, 32
    before = batch(size, 2, height, width)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    before["volume"][:, 0] = torch.stack([y, x])
    before["mask"][:] = True
    settings = made(NOTHING, rotation=180, magnification=(0.5, 2.0))
    out = run(before, settings, seed)
    # a rotation and magnification is affine, so its middle says where all the other pixels were read from
    ones = torch.ones_like(y)
    places = torch.stack([y, x, ones], -1)
    checked = 0
    near = ((y - height / 2).abs() < 3) & ((x - width / 2).abs() < 3)
    for volume, mask in zip(out["volume"][:, 0], out["mask"][:, 0], strict=True):
        source = volume.permute(1, 2, 0)
        inside = (source > 1).all(-1) & (source[..., 0] < height - 2) & (source[..., 1] < width - 2)
        if (inside & near).sum() < 20:
            continue  # the middle itself lies at an edge
        affine = torch.linalg.lstsq(places[near].double(), source[near].double()).solution
        row, column = (places.double() @ affine).unbind(-1)
        # turned and magnified alike along both axes, not mirrored or sheared
        across, squared = affine[:2], affine[:2] @ affine[:2].T
        assert torch.allclose(squared, squared.trace() / 2 * torch.eye(2, dtype=torch.double), atol=2e-3)
        assert 1 / 2 - 1e-3 < across.det().sqrt() < 2 + 1e-3
        checked += 1
        beyond = torch.stack([-0.5 - row, row - height + 0.5, -0.5 - column, column - width + 0.5]).amax(0)
        assert not mask[beyond > 0.05].any()
        assert mask[beyond < -0.05].all()
        seen = beyond < -0.6
        assert torch.allclose(source[seen].double(), torch.stack([row, column], -1)[seen], atol=0.05)
    assert checked


def test_rotation_reaches_its_limits_both_ways_and_no_further() -> None:
    before = batch(200, 2, 16, 16)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    before["volume"][:, 0] = torch.stack([y, x])
    row, column = run(before, made(NOTHING, rotation=30))["volume"][:, 0].unbind(1)
    turned = torch.atan2((column[:, 9, 8] - column[:, 7, 8]), (row[:, 9, 8] - row[:, 7, 8])).rad2deg()
    assert turned.abs().max() <= 30.01
    assert turned.min() < -28
    assert turned.max() > 28


def test_magnification_from_one_on_shows_only_what_lies_inside_and_reaches_every_part() -> None:
    before = batch(200, 2, 32, 32)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    before["volume"][:, 0] = torch.stack([y, x])
    before["mask"][:] = True
    out = run(before, made(NOTHING, magnification=(1, 2.5)))
    assert out["mask"].all()
    rows = out["volume"][:, 0, 0].flatten(1)
    spans = rows.amax(1) - rows.amin(1)
    assert spans.min() < 31 / 2.4
    assert spans.max() > 31 / 1.1
    centres = rows.mean(1)
    assert centres.min() < 10
    assert centres.max() > 21


@given(seed=st.integers(0, 2**31), spacing=st.floats(4, 40))
def test_an_elastic_warp_never_folds_and_moves_no_pixel_too_far(seed: int, spacing: float) -> None:
    before = batch(4, 2, 32, 40)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    before["volume"][:, 0] = torch.stack([y, x])
    farthest = spacing / 4
    out = run(before, made(NOTHING, elastic=farthest, elastic_spacing=spacing), seed)["volume"][:, 0]
    margin = int(farthest) + 2
    row, column = out[:, :, margin:-margin, margin:-margin].unbind(1)
    moved = torch.stack([row - y[margin:-margin, margin:-margin], column - x[margin:-margin, margin:-margin]])
    if moved.numel():
        assert moved.abs().max() <= farthest + 1e-4
        down, right = (lambda a: a.diff(dim=1)[:, :, :-1]), (lambda a: a.diff(dim=2)[:, :-1])
        area = down(row) * right(column) - right(row) * down(column)
        assert (area > 0).all()


def test_only_the_share_that_is_warped_is_resampled() -> None:
    before = batch(400, 1, 8, 8)
    out = run(before, made(NOTHING, rotation=90, warp=0.25))
    untouched = (out["volume"] == before["volume"]).flatten(1).all(1)
    assert 0.68 < untouched.float().mean() < 0.82
    assert out["mask"][untouched].equal(before["mask"][untouched])


@pytest.mark.parametrize("name", [*[name for name in OFF if name not in MIXED]])
@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 8), slice(1, None, 2)])
def test_processes_that_share_a_batch_see_what_one_would(name: str, rows: slice) -> None:
    whole = batch(8)
    settings = STRONG.only(name)
    expected = run(whole, settings)
    part = run({key: value[rows] for key, value in whole.items()}, settings, rows=rows, of=8)
    for key in ("volume", "label", "mask"):
        assert torch.equal(part[key], expected[key][rows])


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got a volume of \(6, 1, 5, 24, 24\) torch.uint8, expected \(B,1,D,H,W\) fl"):
        run({**batch(), "volume": batch()["volume"].to(torch.uint8)}, STRONG)
    with pytest.raises(ValueError, match=r"label \(6, 1, 24, 20\) and mask .* both must be \(6, 1, 24, 24\)"):
        run({**batch(), "label": batch()["label"][..., :20]}, STRONG)
    with pytest.raises(ValueError, match="the batch has 6 tiles, but the rows that it is said to hold are 4"):
        run(batch(), STRONG, rows=slice(0, 4), of=8)
    with pytest.raises(ValueError, match="3 classes have not; set mixup: 0, and cutmix instead"):
        run(batch(), STRONG, classes=3)


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    settings = made(STRONG, noise=0)
    there = run({key: value.cuda() for key, value in batch().items()}, settings)
    here = run(batch(), settings)
    # rounding may put a pixel on the other side of an edge
    close = torch.isclose(there["volume"].cpu(), here["volume"], atol=1e-3)
    assert close.float().mean() > 0.995
    for key in ("label", "mask"):
        assert (there[key].cpu() == here[key]).float().mean() > 0.99
