import errno
import math

import pytest
import torch
from safetensors import SafetensorError

from data_recipes.tiles import InputContract
from tests.zoo.small_sam import SMALL, small
from zoo import checkpoint
from zoo.adapter import load_adapter, save_adapter, save_adapter_if_lora
from zoo.checkpoint import load_checkpoint, save_checkpoint
from zoo.models import sam
from zoo.models.lora import LowRank
from zoo.models.sam import build_sam_tiny
from zoo.registry import create_model


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def lora(seed=0, *, disturbed=False, compression="conv", **options):
    model = small(seed=seed, compression=compression)
    torch.manual_seed(seed)
    model.tune("lora", **options)
    if disturbed:  # as if it had been trained
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in trained(model):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("name", "factors"), [("sam_vit_b", 147_456), ("sam_vit_l", 393_216), ("sam_vit_h", 655_360)])
def test_rank_four_trains_four_times_rank_times_width_a_block(name, factors):
    with torch.device("meta"):
        model = create_model(name, depth=16, tile=256, tuning="lora", lora_rank=4)
        bare = create_model(name, depth=16, tile=256, tuning="lora", lora_decoder=False, compression="mean")
    assert sum(p.numel() for p in model.image_encoder.parameters() if p.requires_grad) == factors
    assert sum(p.numel() for p in bare.parameters() if p.requires_grad) == factors


def test_factors_start_as_nothing():
    plain, model = small(), lora()
    volume = torch.randn(1, 1, 5, 64, 64)
    assert torch.equal(model(volume), plain(volume))
    layer = LowRank(200, 40, 3)
    assert (layer.b == 0).all()
    bound = math.sqrt(1 / 200)  # kaiming with a = √5
    assert 0.95 * bound < layer.a.abs().max() <= bound


def test_lora_trains_factors_compression_and_decoder():
    names = trained(lora())
    factors = {name for name in names if name.startswith("image_encoder")}
    assert factors == {
        f"image_encoder.blocks.{i}.attn.lora_{part}.{factor}" for i in (0, 1) for part in "qv" for factor in "ab"
    }
    assert "compress.conv.weight" in names and "mask_decoder.mask_tokens.weight" in names
    assert not any(name.startswith(("mask_decoder", "prompt_encoder")) for name in trained(lora(decoder=False)))


def test_factors_lie_on_the_blocks_that_are_named():
    assert {name.split(".")[2] for name in trained(lora(blocks=[1])) if name.startswith("image_encoder")} == {"1"}
    with pytest.raises(ValueError, match=r"lora_blocks 2 is not possible; 0 to 1"):
        lora(blocks=[2])
    with pytest.raises(ValueError, match="LoRA of rank 0 is not possible"):
        lora(rank=0)


def test_the_frozen_weights_stay_when_the_others_learn():
    model = lora().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # in the first step A stands still, as B is zero
        heads = model.heads(torch.randn(2, 1, 5, 64, 64))
        (heads.logits[0].square().mean() + heads.aux["iou"].square().mean()).backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # a key's bias adds the same to all scores of a query: its gradient is nothing but rounding
    assert {name for name in trained(model) if not name.endswith("k_proj.bias")} <= moved <= trained(model)


def test_only_query_and_value_are_adapted():
    model = lora(disturbed=True)
    merged = lora(disturbed=True)
    merged.merge_lora()
    for index in range(2):
        change = merged.image_encoder.attention(index).qkv.weight - model.image_encoder.attention(index).qkv.weight
        query, key, value = change.chunk(3)
        assert (key == 0).all() and query.abs().max() > 0 and value.abs().max() > 0


def test_merged_factors_answer_the_same_as_a_plain_model():
    model = lora(disturbed=True)
    volume = torch.randn(1, 1, 5, 64, 64)
    with torch.no_grad():
        expected = model(volume)
        model.merge_lora()
        torch.testing.assert_close(model(volume), expected, atol=1e-5, rtol=1e-5)
    plain = small(seed=7)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(volume), expected, atol=1e-5, rtol=1e-5)


def test_decoder_tuning_freezes_the_encoder_alone():
    model = small()
    model.tune("decoder")
    names = trained(model)
    assert not any(name.startswith("image_encoder") for name in names)
    assert "compress.conv.weight" in names and "prompt_encoder.no_mask_embed.weight" in names
    inflated = small(compression="inflated")
    inflated.tune("decoder")
    assert {name for name in trained(inflated) if name.startswith("image_encoder")} == {
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.patch_embed.proj.bias",
    }


def test_full_tuning_freezes_nothing_that_is_used():
    model = small()
    before = trained(model)
    model.tune("full")
    assert trained(model) == before
    with pytest.raises(ValueError, match="tuning 'half' is not possible; there are full, decoder, lora"):
        model.tune("half")


@pytest.mark.parametrize("options", [{}, {"decoder": False}, {"rank": 2, "blocks": [0]}])
def test_an_adapter_brings_back_what_was_trained(tmp_path, options):
    source, target = lora(disturbed=True, **options), lora(**options)
    path = save_adapter(tmp_path / "adapter.safetensors", source)
    volume = torch.randn(1, 1, 5, 64, 64)
    assert not torch.equal(target(volume), source(volume))
    load_adapter(path, target)
    assert torch.equal(target(volume), source(volume))
    assert path.stat().st_size < 4 * sum(p.numel() for p in source.parameters() if p.requires_grad) + 20_000


def test_an_adapter_is_refused_where_it_does_not_belong(tmp_path):
    path = save_adapter(tmp_path / "adapter.safetensors", lora())
    with pytest.raises(ValueError, match="trained beside other frozen weights"):
        load_adapter(path, lora(seed=1))
    with pytest.raises(ValueError, match="does not fit this sam_vit_b.*build the model with the options"):
        load_adapter(path, lora(rank=8))
    with pytest.raises(ValueError, match="does not fit this sam_tiny"):
        load_adapter(path, build_sam_tiny(depth=5, tile=32))
    with pytest.raises(FileNotFoundError, match="no such adapter"):
        load_adapter(tmp_path / "none", lora())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_adapter(path, lora())


@pytest.fixture
def small_vit_b(monkeypatch):
    monkeypatch.setitem(sam.SIZES, "sam_vit_b", SMALL)


def saved_and_opened(path, model, **options):
    contract = InputContract(stored_dtype="uint8", depth=5, tile=64)
    save_checkpoint(path, model, name="sam_vit_b", options=options, contract=contract, config={})
    return load_checkpoint(path).model


def test_a_checkpoint_with_factors_opens_as_any_other(tmp_path, small_vit_b):
    options = {"tuning": "lora", "lora_rank": 2, "lora_blocks": [1], "compression": "fused"}
    model = create_model("sam_vit_b", depth=5, tile=64, **options).eval()
    torch.nn.init.normal_(model.image_encoder.attention(1).lora_q.b)
    # the official weights need not be here any more
    opened = saved_and_opened(tmp_path / "lora.safetensors", model, **options, checkpoint="gone.pth")
    volume = torch.randn(1, 1, 5, 64, 64)
    assert torch.equal(opened(volume), model(volume))
    assert trained(opened) == trained(model)


def test_a_merged_model_opens_without_any_factors(tmp_path, small_vit_b):
    model = create_model("sam_vit_b", depth=5, tile=64, tuning="lora").eval()
    torch.nn.init.normal_(model.image_encoder.attention(0).lora_v.b)
    model.merge_lora()
    opened = saved_and_opened(tmp_path / "merged.safetensors", model)
    volume = torch.randn(1, 1, 5, 64, 64)
    assert torch.equal(opened(volume), model(volume))


def test_a_model_with_nothing_frozen_has_no_adapter(tmp_path):
    model = small()
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="nothing is frozen"):
        save_adapter(tmp_path / "adapter.safetensors", model)


def test_an_adapter_of_given_weights_holds_those_and_not_the_models_own(tmp_path):
    model, target = lora(), lora()
    weights = {key: tensor + 1 if "lora" in key else tensor for key, tensor in model.state_dict().items()}
    load_adapter(save_adapter(tmp_path / "adapter.safetensors", model, weights), target)
    for key, tensor in target.state_dict().items():
        torch.testing.assert_close(tensor, weights[key], atol=0, rtol=0)
    weights = {key: tensor + 1 for key, tensor in weights.items()}
    with pytest.raises(ValueError, match="trained beside other frozen weights"):
        load_adapter(save_adapter(tmp_path / "adapter.safetensors", model, weights), target)


def test_a_full_disk_leaves_the_earlier_adapter(tmp_path, monkeypatch):
    path = save_adapter(tmp_path / "adapter.safetensors", lora())
    before = path.read_bytes()

    def no_space(_tensors, partial, _metadata):
        partial.write_bytes(before[:100])
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        save_adapter(path, lora(seed=1))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_only_a_model_with_factors_is_given_an_adapter(tmp_path):
    assert save_adapter_if_lora(tmp_path / "lora.safetensors", lora()) == tmp_path / "lora.safetensors"
    frozen = small()
    frozen.tune("decoder")
    for model in (frozen, small()):
        assert save_adapter_if_lora(tmp_path / "none.safetensors", model) is None
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]
