"""What a model says of itself: where it comes from, what it takes, and where it differs from its paper."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelCard:
    """The facts on one registered model. Read by the command line, the benchmark and the shape checks.

    Attributes:
        name: registered name, such as `repmode_tiny`.
        family: the name that stands for all variants, such as `repmode`.
        summary: one line on how it works.
        paper: title, venue and year; empty where there is none.
        url: where the paper can be read.
        licence: of the reference implementation or of the weights.
        depth: default number of layers.
        tile: default side of a tile in pixels.
        multiple: H and W must be multiples of this.
        min_tile: the smallest side it takes.
        out_stride: pixels of the input to one of the finest head.
        differs: what is not as in the paper, a sentence each.
        options: what the builder takes besides depth, tile and classes: name -> meaning.
        init_options: those of them that only set the weights a model starts from, such as a file to read: they go into
            a checkpoint's record, and are not given to the builder when it is opened, whose weights replace them.
        uses_depth: whether the order of the layers can change the answer.
        not_traced: why `torch.compile(fullgraph=True)` cannot trace it whole; empty where it can. The contract test
            tries, and holds a reason against a model that can after all.
        not_exported: the same for `torch.export`.
    """

    name: str
    family: str
    summary: str
    paper: str = ""
    url: str = ""
    licence: str = "Apache-2.0"
    depth: int = 16
    tile: int = 96
    multiple: int = 1
    min_tile: int = 1
    out_stride: int = 1
    differs: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    init_options: tuple[str, ...] = ()
    uses_depth: bool = True
    not_traced: str = ""
    not_exported: str = ""
