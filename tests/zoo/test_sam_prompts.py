import pytest
import torch

from tests.zoo.small_sam import small, their_sam
from zoo.models.sam_prompts import embed_prompts

POINTS = torch.tensor([[[10.0, 20.0], [50.0, 3.0]], [[33.0, 60.0], [0.0, 0.0]]])
LABELS = torch.tensor([[1, 0], [1, -1]])
BOXES = torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 30.0, 60.0]])
MASKS = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
PROMPTS = [
    {},
    {"points": POINTS, "labels": LABELS},
    {"boxes": BOXES},
    {"masks": MASKS},
    {"points": POINTS, "labels": LABELS, "boxes": BOXES},
    {"points": POINTS, "labels": LABELS, "boxes": BOXES, "masks": MASKS},
]
THEIR_NAMES = {"points": "point_coords", "labels": "point_labels", "boxes": "boxes", "masks": "mask_inputs"}


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompts", PROMPTS, ids=lambda prompts: "+".join(prompts) or "none")
def test_prompts_answer_as_segment_anything_does(prompts, multimask):
    model = small(multimask=multimask)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        masks, iou = model.decode(model.encode(images), **prompts)
        given = [
            {
                "image": images[i],
                "original_size": (64, 64),
                **{THEIR_NAMES[key]: value[i : i + 1] for key, value in prompts.items()},
            }
            for i in range(2)
        ]
        theirs = their_sam(model)(given, multimask_output=multimask)
    for i, expected in enumerate(theirs):
        torch.testing.assert_close(masks[i : i + 1], expected["low_res_logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou[i : i + 1], expected["iou_predictions"], atol=1e-4, rtol=1e-4)


def test_an_image_is_encoded_once_for_several_prompts():
    model = small()
    volume = torch.randn(1, 1, 5, 64, 64)
    with torch.no_grad():
        embedding = model.embed(volume)
        both, _ = model.decode(embedding.expand(2, -1, -1, -1), boxes=BOXES)
        second, _ = model.decode(embedding, boxes=BOXES[1:])
    torch.testing.assert_close(both[1:], second)
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_coordinates_are_relative_to_the_image_that_was_embedded():
    encoder = small(tile=64).prompt_encoder
    place = {"points": torch.tensor([[[80.0, 10.0]]]), "labels": torch.ones(1, 1)}
    ours, _ = embed_prompts(encoder, side=(64, 96), grid=(4, 6), batch=1, **place)
    encoder.input_image_size = (64, 96)
    theirs, _ = encoder(tuple(place.values()), None, None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_an_image_that_is_not_square_takes_prompts():
    model = small()
    with torch.no_grad():
        masks, iou = model.decode(model.encode(torch.randn(2, 3, 64, 96)), points=POINTS, labels=LABELS)
    assert masks.shape == (2, 1, 16, 24) and iou.shape == (2, 1)


def test_prompts_keep_their_fine_encoding_under_autocast():
    model = small()
    embedding = torch.randn(2, 32, 4, 4)
    with torch.no_grad():
        exact, _ = model.decode(embedding, points=POINTS, labels=LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = model.decode(embedding, points=POINTS, labels=LABELS)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_decoder_with_prompts_is_traced_whole():
    model = small()
    embedding = torch.randn(2, 32, 4, 4)
    compiled = torch.compile(model.decode, backend="eager", fullgraph=True)
    prompts = {"points": POINTS, "labels": LABELS, "masks": MASKS}
    torch.testing.assert_close(compiled(embedding, **prompts), model.decode(embedding, **prompts))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"points": POINTS}, "points and labels go together"),
        ({"points": POINTS[:, 0], "labels": LABELS}, r"got points \(2, 2\) and labels \(2, 2\), expected \(2, P, 2\)"),
        ({"points": POINTS[:1], "labels": LABELS[:1]}, r"got points \(1, 2, 2\)"),
        ({"boxes": BOXES[:, :3]}, r"got boxes \(2, 3\), expected \(2, 4\)"),
        ({"masks": MASKS[:, :, :8]}, r"got masks \(2, 1, 8, 16\), expected \(2, 1, 16, 16\)"),
    ],
)
def test_prompts_that_do_not_belong_together_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        small().decode(torch.randn(2, 32, 4, 4), **prompts)
