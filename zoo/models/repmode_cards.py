"""The cards of RepMode: what each variant is, and where it differs from the paper."""

from zoo.card import ModelCard

_PAPER = (
    "Zhou et al.: RepMode: Learning to Re-parameterize Diverse Experts for Subcellular Structure Prediction, CVPR 2023"
)
_URL = "https://arxiv.org/abs/2212.10066"
_LICENCE = "Apache-2.0 (written from the paper; the authors' code is non-commercial and none of it is here)"
_OPTIONS = {
    "tasks": "how many tasks the gates tell apart (fragments, scan energies, modalities); with more than one every "
    "call needs task=(B,) integers (default 1)",
    "reduction": "Z to 2D: zconv (Z as channels, default), mean, max, tensor or attention",
    "decoder": "3d (default), or 2d: bottleneck and each skip are reduced and decoded in 2D, at about .4 of the "
    "multiply-adds (tiny and small; base .3)",
    "experts": "kernel shapes (z, y, x) of the experts, such as [[1, 5, 5], [5, 1, 1]]; [avg, 3, 3, 3] is a 1×1×1 "
    "convolution followed by an average (default: the paper's [[5, 5, 5], [3, 3, 3], [1, 1, 1], [avg, 3, 3, 3], "
    "[avg, 5, 5, 5]])",
}
_PER_TASK = (
    "each sample is computed with its own task in training and in evaluation alike, one convolution a layer "
    "for each distinct task"
)
CARDS = {
    "repmode_tiny": ModelCard(
        name="repmode_tiny",
        family="repmode",
        summary="narrow MoDE U-Net behind a 4-px patch convolution; Z becomes 2D by a convolution with Z as channels",
        paper=_PAPER,
        url=_URL,
        licence=_LICENCE,
        depth=16,
        tile=96,
        multiple=16,
        min_tile=32,
        out_stride=4,
        differs=(
            "a patch convolution with stride (1, 4, 4) first, so that all MoDE convolutions run at a quarter of the "
            "resolution in plane and at full resolution in Z; the head is at a quarter too",
            "three levels of 16, 32 and 64 channels instead of five of 32 to 512",
            "the last MoDE convolution makes 4 channels, which a 3×3 convolution with Z as channels turns to 2D",
            _PER_TASK,
        ),
        options=_OPTIONS,
    ),
    "repmode_small": ModelCard(
        name="repmode_small",
        family="repmode",
        summary="MoDE U-Net behind a 2-px patch convolution; Z becomes 2D by a convolution with Z as channels",
        paper=_PAPER,
        url=_URL,
        licence=_LICENCE,
        depth=16,
        tile=96,
        multiple=16,
        min_tile=32,
        out_stride=2,
        differs=(
            "a patch convolution with stride (1, 2, 2) first, so that all MoDE convolutions run at half the "
            "resolution in plane and at full resolution in Z; the head is at half too",
            "four levels of 16, 32, 64 and 128 channels instead of five of 32 to 512",
            "the last MoDE convolution makes 4 channels, which a 3×3 convolution with Z as channels turns to 2D",
            _PER_TASK,
        ),
        options=_OPTIONS,
    ),
    "repmode_base": ModelCard(
        name="repmode_base",
        family="repmode",
        summary="the published 3D MoDE U-Net, width 32; Z becomes 2D by a convolution with Z as channels",
        paper=_PAPER,
        url=_URL,
        licence=_LICENCE,
        depth=64,
        tile=64,
        multiple=16,
        min_tile=32,
        out_stride=1,
        differs=(
            "a 3×3 convolution with Z as channels after the last layer: the paper predicts volumes, ink is a 2D map",
            "layers are edge-padded to a multiple of 16 inside",
            _PER_TASK,
        ),
        options=_OPTIONS,
    ),
    # not registered: made from a trained model by `RepMode.fuse`, and built by name when its checkpoint is opened
    "repmode_fused": ModelCard(
        name="repmode_fused",
        family="repmode",
        summary="a RepMode network fused for one task: plain convolutions, the same answer",
        paper=_PAPER,
        url=_URL,
        licence=_LICENCE,
        multiple=16,
        min_tile=32,
        out_stride=4,
        options={
            "of": "the variant it is the fusion of: repmode_tiny (default), repmode_small, repmode_base, or repmode",
            "options": "the options that variant was built with (default none)",
            "task": "the task it is fused for (default 0)",
            "fold_norm": "BatchNorm folded into the convolutions too (default false)",
        },
    ),
}
