"""How the tensors of an official SAM checkpoint fit a model of another tile or depth; zoo.pretrained reads the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.models.sam_encoder import resize_grid, resize_relative

if TYPE_CHECKING:
    from zoo.models.sam_network import SamInk


def load_official(model: SamInk, tensors: dict[str, Tensor]) -> None:
    """Put an official checkpoint's tensors into `model`, every one of them; the Z compression keeps what it has.

    Positions are resized to the model's tile, colour weights shared out where the patches take layers instead, and
    what goes beyond SAM's four mask tokens, for more than four classes, keeps what it has.

    Raises:
        ValueError: other tensors than SAM's, or of another variant; they are named.
    """
    own = model.state_dict()
    strange = sorted(tensors.keys() - own.keys())
    absent = sorted(key for key in own.keys() - tensors.keys() if not key.startswith("compress."))
    absent = [key for key in absent if not key.startswith("mask_decoder.output_hypernetworks_mlps.")]
    fitted = {key: _fit(key, tensor, own[key]) for key, tensor in tensors.items() if key in own}
    strange += [f"{key} {tuple(tensor.shape)}" for key, tensor in fitted.items() if tensor.shape != own[key].shape]
    if strange or absent:
        raise ValueError(
            f"the checkpoint does not fit {model.card.name}: not of it {strange[:3]}, absent {absent[:3]}; "
            "take the file of that variant"
        )
    model.load_state_dict(fitted, strict=False)


def fit_positions(key: str, tensor: Tensor, own: Tensor) -> Tensor:
    """`tensor` resized to the grid of `own`, if the name says that it holds positions; anything else as it is."""
    if key.endswith("pos_embed"):
        return resize_grid(tensor, own.shape[1], own.shape[2])
    if "rel_pos" in key:
        return resize_relative(tensor, own.shape[0])
    return tensor


def _fit(key: str, tensor: Tensor, own: Tensor) -> Tensor:
    """A checkpoint's tensor in the shape of the model's: resized positions, or the first rows of more tokens."""
    tensor = fit_positions(key, tensor, own)
    if key.endswith("patch_embed.proj.weight") and own.shape[1] != tensor.shape[1]:
        # D layers that are all alike give the patches what a grey picture gave
        return (tensor.sum(dim=1, keepdim=True) / own.shape[1]).expand(-1, own.shape[1], -1, -1)
    if tensor.shape != own.shape and tensor.shape[1:] == own.shape[1:] and len(tensor) < len(own):
        return torch.cat([tensor, own[len(tensor) :]])
    return tensor
