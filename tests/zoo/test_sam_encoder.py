import pytest
import torch
from segment_anything.modeling.image_encoder import Attention as TheirAttention

from tests.zoo.small_sam import small, their_encoder
from zoo.models import sam_encoder
from zoo.models.sam_encoder import Attention, ImageEncoder, from_windows, to_windows


def test_it_equals_segment_anythings_forward_and_backward():
    model = small(tile=80)  # 5 patches: the windows of 3 are padded
    ours, theirs = model.image_encoder, their_encoder(model)
    image = torch.randn(2, 3, 80, 80)
    mine, other = image.clone().requires_grad_(), image.clone().requires_grad_()
    answer, expected = ours(mine), theirs(other)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(answer)
    (answer * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
    for (name, parameter), (_, twin) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_its_weights_are_named_and_drawn_as_segment_anythings():
    torch.manual_seed(0)
    ours = ImageEncoder(
        channels=3, grid=4, patch=16, width=32, blocks=2, heads=2, global_blocks=(1,), window=3, embedding=32
    ).state_dict()
    theirs = their_encoder(small())  # for its shapes
    torch.manual_seed(0)
    theirs.__init__(
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=32,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    for (key, tensor), (name, twin) in zip(ours.items(), theirs.state_dict().items(), strict=True):
        assert key == name
        assert torch.equal(tensor, twin), key


@pytest.mark.parametrize(("height", "width"), [(6, 6), (3, 5), (8, 4)])
def test_attention_equals_segment_anythings_on_grids_it_was_not_built_for(height, width):
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3, side=6), TheirAttention(24, 3, use_rel_pos=True, input_size=(6, 6))
    torch.nn.init.normal_(ours.rel_pos_h)
    torch.nn.init.normal_(ours.rel_pos_w)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, height, width, 24)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=1e-5)


def test_attention_in_bf16_is_as_close_to_fp32_as_segment_anythings():
    torch.manual_seed(0)
    ours, theirs = Attention(128, 2, side=12), TheirAttention(128, 2, use_rel_pos=True, input_size=(12, 12))
    torch.nn.init.normal_(ours.rel_pos_h, std=0.5)
    torch.nn.init.normal_(ours.rel_pos_w, std=0.5)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 12, 12, 128)
    exact = theirs(tokens)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        error, library = ((attention(tokens).float() - exact).abs().mean() for attention in (ours, theirs))
    assert error < 1.1 * library < 0.01


def test_no_matrix_of_all_pairs_is_held():
    attention = Attention(16, 2, side=24)
    pairs = 2 * (24 * 24) ** 2
    held = []

    def keep(tensor):
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(torch.randn(1, 24, 24, 16, requires_grad=True))
    assert max(held) < pairs / 4


def test_windows_come_back_where_they_were():
    tokens = torch.randn(2, 5, 7, 4)
    windows = to_windows(tokens, 3)
    assert windows.shape == (2 * 2 * 3, 3, 3, 4)
    torch.testing.assert_close(windows[1], tokens[0, :3, 3:6])
    assert (windows[5, 2] == 0).all() and (windows[5, :, 1:] == 0).all()
    assert torch.equal(from_windows(windows, 2, 5, 7), tokens)


def test_recomputing_activations_changes_no_gradient_and_keeps_fewer():
    volume = torch.randn(1, 1, 5, 64, 64)
    answers, sizes = [], []
    for enable in (False, True):
        model = small(drop_path=0.5).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, h=held: (h.append(t.numel()), t)[1], lambda t: t):
            loss = model(volume).square().mean()
        loss.backward()
        answers.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        sizes.append(sum(held))
    for plain, recomputed in zip(*answers, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=0, rtol=0)
    assert sizes[1] < 0.8 * sizes[0]


def test_drop_path_rises_to_the_last_block_and_spares_evaluation():
    model = small(drop_path=0.5)
    assert [model.image_encoder.blocks[i].drop_path for i in range(2)] == [0, 0.5]
    image = torch.randn(64, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.encode(image), small().encode(image))
    block = model.image_encoder.blocks[1].train()
    tokens = torch.randn(400, 2, 2, 32)
    block.mlp.requires_grad_(False).apply(lambda m: torch.nn.init.zeros_(m.weight) if hasattr(m, "weight") else None)
    block.mlp.lin2.bias.zero_()
    with torch.no_grad():
        torch.manual_seed(2)
        change = block(tokens) - tokens
        torch.manual_seed(2)
        assert torch.equal(change, block(tokens) - tokens), "drawn by torch's generator"
        kept = change.abs().amax(dim=(1, 2, 3)) > 0
        assert 0.4 < kept.float().mean() < 0.6, "a sample at a time"
        expected = block.eval()(tokens) - tokens
        torch.testing.assert_close(change[kept], 2 * expected[kept], atol=1e-5, rtol=1e-5)


def test_drop_path_of_one_is_refused():
    with pytest.raises(ValueError, match=r"drop_path 1\.0 is not possible; from 0 \(none\) to below 1"):
        small(drop_path=1.0)


def test_it_is_traced_whole():
    model = small()
    volume = torch.randn(1, 1, 5, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(volume), model(volume))


def test_values_are_as_long_as_queries_only_where_the_kernel_wants_it(monkeypatch):
    lengths = []
    attend = sam_encoder.F.scaled_dot_product_attention

    def seen(query, key, value, **options):
        lengths.append((query.shape[-1], key.shape[-1], value.shape[-1]))
        return attend(query, key, value, **options)

    monkeypatch.setattr(sam_encoder.F, "scaled_dot_product_attention", seen)
    Attention(32, 2, side=5)(torch.randn(1, 5, 5, 32))
    Attention(32, 2, side=5).to("meta")(torch.randn(1, 5, 5, 32, device="meta"))
    assert lengths == [(32, 32, 32), (32, 32, 16)]
