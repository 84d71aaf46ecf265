"""What the variants of SAM say of themselves, and what their options mean."""

from __future__ import annotations

from zoo.card import ModelCard

_SHARED_DIFFERS = (
    "No prompt in training and prediction: the learned no-mask embedding and no points, as in SAM's own path without "
    "prompts. `decode` takes points, boxes and masks.",
    "More than one class: class c is read from mask token c, with a softmax over them.",
    "Attention never holds the matrix of all pairs, the scores are the same (zoo/models/sam_encoder.py).",
)
_SHARED_OPTIONS = {
    "drop_path": "chance that a sample skips a branch of the encoder's last block in training, falling linearly to 0 "
    "at the first (0 by default; the paper took .6, .4 and .4 for B, L and H)",
    "multimask": "true: three candidates for one class, of which the one with the highest predicted IoU is the answer; "
    "all three are in aux `masks`, and a loss trains the best of them",
}
_TUNING_OPTIONS = {
    "tuning": "what is trained besides the compression: full (everything), decoder (the encoder is frozen), lora "
    "(low-rank factors on q and v of the frozen encoder, and the decoder)",
    "lora_rank": "rank of those factors: 4·rank·width parameters a block (4 by default)",
    "lora_blocks": "list of the blocks that have them (all by default)",
    "lora_decoder": "false: lora leaves the decoder frozen too (true by default, as without prompts it has another "
    "task than the one it was trained for)",
}
_VIT_OPTIONS = {
    "compression": "how layers become the encoder's image: conv (learnt, three channels; the default), inflated (the "
    "patch embedding takes D channels), mean, mosaic (three layers a cell of 4×4, 16 times the cost), fused (three "
    "layers a picture, encoded apart and fused by attention, ⌈D/3⌉ times the cost)",
    **_TUNING_OPTIONS,
    "checkpoint": "path of the official weights, checked by their SHA-256",
    "pretrained": "true, or the variant's name: the official weights from the cache ($INKZOO_CACHE), or fetched",
}
_TINY_OPTIONS = {
    "width": "channels of the first 3D convolution; the others have twice as many",
    **_TUNING_OPTIONS,
}


def _card(name: str, summary: str, *, multiple: int, out_stride: int, tile: int, differs: tuple[str, ...]) -> ModelCard:
    tiny = name == "sam_tiny"
    return ModelCard(
        name=name,
        family="sam",
        summary=summary,
        paper="Segment Anything, ICCV 2023",
        url="https://arxiv.org/abs/2304.02643",
        depth=16,
        tile=tile,
        multiple=multiple,
        min_tile=16,
        out_stride=out_stride,
        differs=differs + _SHARED_DIFFERS,
        options=(_TINY_OPTIONS if tiny else _VIT_OPTIONS) | _SHARED_OPTIONS,
        init_options=() if tiny else ("checkpoint", "pretrained"),
    )


def _vit_card(name: str, summary: str) -> ModelCard:
    differs = ("Any tile in 16-px steps: positional embeddings and relative positions are resized to it.",)
    summary = f"SAM {summary}, behind a compression of the layers"
    return _card(name, summary, multiple=16, out_stride=4, tile=256, differs=differs)


CARDS = {
    card.name: card
    for card in (
        _card(
            "sam_tiny",
            "SAM that learns from scratch on two cores: 3D stem, ViT of width 128 and 4 blocks, 8-px patches",
            multiple=8,
            out_stride=2,
            tile=96,
            differs=(
                "Z is compressed by three 3D convolutions and a Z-as-channels one to 16 channels at 1/4, not to 3.",
                "Patches of 2 px of that image (8 px of the input) instead of 16 px; masks come out at 1/2.",
                "A 1×1 convolution reads ink off the compressed image too, in training: without it the compression "
                "learns through an untrained ViT, and some seeds stay at chance for hundreds of steps.",
                "All blocks attend globally; embedding 128 instead of 256; only as many mask tokens as are read.",
            ),
        ),
        _vit_card("sam_vit_b", "ViT-B, 94 M parameters: width 768, 12 blocks"),
        _vit_card("sam_vit_l", "ViT-L, 312 M parameters: width 1024, 24 blocks"),
        _vit_card("sam_vit_h", "ViT-H, 641 M parameters: width 1280, 32 blocks"),
    )
}
