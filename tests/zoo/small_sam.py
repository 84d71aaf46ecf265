"""A small SAM laid out as ViT-B is (windows, a global block, 16-px patches, four mask tokens), and the library's."""

from dataclasses import replace
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from zoo.models import sam
from zoo.models.sam import SIZES, SamInk
from zoo.models.sam_compression import COMPRESSIONS

SMALL = replace(
    SIZES["sam_vit_b"],
    width=32,
    blocks=2,
    heads=2,
    global_blocks=(1,),
    window=3,
    embedding=32,
    decoder_heads=2,
    decoder_mlp=32,
)


def small(*, tile=64, classes=1, depth=5, seed=0, compression="conv", drop_path=0.0, multimask=False):
    torch.manual_seed(seed)
    model = SamInk(
        sam.CARDS["sam_vit_b"],
        SMALL,
        COMPRESSIONS[compression],
        depth=depth,
        tile=tile,
        classes=classes,
        drop_path=drop_path,
        multimask=multimask,
    )
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:  # they start at zero, where an error could hide
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def their_encoder(model):
    """segment_anything's image encoder with the weights of ours."""
    encoder = ImageEncoderViT(
        img_size=16 * model.image_encoder.pos_embed.shape[1],
        embed_dim=SMALL.width,
        depth=SMALL.blocks,
        num_heads=SMALL.heads,
        out_chans=SMALL.embedding,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=SMALL.window,
        global_attn_indexes=SMALL.global_blocks,
    )
    encoder.load_state_dict(model.image_encoder.state_dict())
    return encoder.eval()


def their_sam(model):
    """segment_anything's own assembly with the weights of ours."""
    return Sam(their_encoder(model), model.prompt_encoder, model.mask_decoder, [0.0] * 3, [1.0] * 3)
