"""A checkpoint's contract held against a segment: kept, or changed by what the user says, never silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from data_recipes.fragment import Fragment
from data_recipes.resample import resampled
from data_recipes.tiles import InputContract, parse_to_uint8

if TYPE_CHECKING:
    from zoo.predict.__main__ import PredictOptions

Direction = Literal["forward", "reverse"]
VoxelSize = Literal["refuse", "resample", "ignore"]
_SAME_SCALE = 0.02  # as InputContract.check has it

Say = Callable[[str], None]


def fit(
    options: PredictOptions, contract: InputContract, fragment: Fragment, say: Say
) -> tuple[InputContract, Fragment, float]:
    """The contract with what was asked for, the fragment on its scale, and by how much it was resampled (1: not).

    Raises:
        ValueError: the fragment cannot be read so; with the option that would force it.
    """
    contract = fit_bits(contract, fragment, options.to_uint8, say)
    contract, fragment, factor = fit_scale(contract, fragment, options.voxel_size, say)
    contract = fit_window(
        contract,
        fragment,
        direction=None if options.direction == "both" else options.direction,
        start=options.layer_start,
        end=options.layer_end,
        repeat=options.repeat_layers,
        say=say,
    )
    return contract, fragment, factor


def fit_bits(contract: InputContract, fragment: Fragment, how: str | None, say: Say) -> InputContract:
    """The contract for 8 or 16 bits, as the segment has them, so that a model sees the 8 bits that it was trained on.

    Args:
        how: `--to-uint8`: how 16 bits are to become 8, or how the segment's 8 bits came from 16.

    Raises:
        ValueError: it is not known how, or it was done in another way than in training.
    """
    if how is not None:
        parse_to_uint8(how)
    assert fragment.volume is not None
    stored, trained = str(fragment.volume.dtype), contract.stored_dtype
    want = contract.to_uint8 if trained == "uint16" else contract.source_to_uint8
    if stored == "uint16":
        use = how or want
        if use is None:
            raise ValueError(
                f"{fragment.name}: layers are uint16, expected uint8 as in training, and how those came from 16 bits "
                "is unknown; say how with --to-uint8 high_byte or --to-uint8 clip:LO:HI"
            )
        if use == "none" and want != "none":
            raise ValueError(
                f"--to-uint8 none: the layers of {fragment.name} are uint16 and would be clipped as if they were 8 "
                f"bits; give {want or 'high_byte or clip:LO:HI'}"
            )
        if use != want:
            before = f"in training it was {want}" if want else "how it was in training is unknown"
            say(f"16 bits become 8 by {use}, as asked for; {before}")
        elif trained == "uint8":
            say(f"16 bits become 8 by {use} on the way in, as they did before training")
        return contract.model_copy(update={"stored_dtype": "uint16", "to_uint8": use, "source_to_uint8": None})
    was = how or fragment.to_uint8
    if trained == "uint16" and was is None:
        raise ValueError(
            f"{fragment.name}: layers are uint8, expected uint16 as in training, where 8 bits came from 16 by {want}; "
            f"give its 16-bit layers, or say with --to-uint8 {want} that its 8 bits came about in the same way"
        )
    if want and was and was != want:
        raise ValueError(
            f"{fragment.name}: its 8 bits came from 16 by {was}, expected {want} as in training; convert the 16-bit "
            f"layers with `python -m data_recipes convert --to-uint8 {want}`, or force it with --to-uint8 {want}"
        )
    if how is not None and want is None:
        say(f"--to-uint8 {how} changes nothing: how 8 bits came from 16 in training is unknown")
    return contract.model_copy(update={"stored_dtype": "uint8", "to_uint8": "none", "source_to_uint8": want})


def fit_scale(
    contract: InputContract, fragment: Fragment, rule: VoxelSize, say: Say
) -> tuple[InputContract, Fragment, float]:
    """Contract and fragment at one voxel size, and by how much the fragment was resampled (1: not at all).

    Raises:
        ValueError: the sizes are known, differ, and `rule` is refuse; or one is not known, and `rule` is resample.
    """
    mine, its = contract.voxel_um, fragment.voxel_um
    if rule == "resample" and not (mine and its):
        lacking, cure = (
            ("the checkpoint does not say that of training", "leave it out")
            if its
            else (f"that of {fragment.name} is unknown", "say it as voxel_um in a fragment.yaml, or leave it out")
        )
        raise ValueError(f"--voxel-size resample needs both voxel sizes, and {lacking}; {cure}")
    if not mine or not its or abs(its / mine - 1) <= _SAME_SCALE:
        if mine and not its:
            say(f"voxel size unknown, taken as the {mine:g} µm of training")
        elif rule == "resample":
            trained = "as" if its == mine else f"{mine:g} µm"
            near = "" if its == mine else f" no more than {100 * _SAME_SCALE:g} % apart, so"
            say(f"voxels are {its:g} µm, {trained} in training:{near} nothing is resampled")
        return contract, fragment, 1.0
    if rule == "resample":
        factor = its / mine
        say(f"voxels of {its:g} µm are resampled to the {mine:g} µm of training; so is the map")
        return contract, resampled(fragment, factor), factor
    if rule == "ignore":
        say(f"voxels are {its:g} µm, {mine:g} µm in training: ignored, as asked for")
        return contract.model_copy(update={"voxel_um": None}), fragment, 1.0
    raise ValueError(
        f"{fragment.name}: voxels are {its:g} µm, expected {mine:g} µm as in training; --voxel-size resample brings "
        "them to that on the way in, --voxel-size ignore takes them as they are"
    )


def fit_window(
    contract: InputContract,
    fragment: Fragment,
    *,
    direction: Direction | None,
    start: int | None,
    end: int | None,
    repeat: bool,
    say: Say,
) -> InputContract:
    """The contract with its direction and window of layers as asked for.

    Args:
        direction: `forward` as the layers are stored, `reverse` from the last to the first; None as the contract says.
        start, end: stored layers, the last one excluded, in place of the contract's window.
        repeat: go on where the window leaves the volume: the outermost layer is then repeated.

    Raises:
        ValueError: a window that is not as deep as the model, or leaves the volume.
    """
    stated = fragment.direction or "forward"
    own = "forward" if stated == contract.direction else "reverse"
    if direction and direction != own:
        say(f"layers are read {direction}, as asked for; by its contract the model would read them {own}")
        contract = contract.model_copy(
            update={"direction": "reverse" if contract.direction == "forward" else "forward"}
        )
    elif "direction" in fragment.unknown and not direction:
        say(f"direction unknown, read {own}: --direction both makes a map of each, --direction reverse the other one")
    first, last = contract.window(fragment)
    if start is not None or end is not None:
        begin = start if start is not None else (end or 0) - contract.depth
        until = end if end is not None else begin + contract.depth
        if until - begin != contract.depth:
            raise ValueError(
                f"--layer-start {begin} --layer-end {until} are {until - begin} layers, the model takes "
                f"{contract.depth}; give one of the two, or --layer-end {begin + contract.depth}"
            )
        if (begin, until) != (first, last):
            say(f"layers {begin} to {until - 1} are read, as asked for; the contract says {first} to {last - 1}")
        moved = begin - first if (fragment.direction or "forward") == contract.direction else first - begin
        contract = contract.model_copy(update={"offset": contract.offset + moved})
        first, last = begin, until
    elif "center_layer" in fragment.unknown:
        say(f"centre layer unknown, layers {first} to {last - 1} are read: --layer-start moves the window")
    outside = max(-first, 0) + max(last - fragment.depth, 0)
    if outside and repeat:
        say(f"{outside} of {contract.depth} layers lie outside the volume and repeat its outermost ones, as asked for")
    elif fragment.depth < contract.depth:
        raise ValueError(
            f"{fragment.name}: has {fragment.depth} layers, the model takes {contract.depth}; give a segment with more "
            "of them, or repeat the outermost with --repeat-layers"
        )
    elif outside:
        raise ValueError(
            f"{fragment.name}: layers {first} to {last - 1} are needed, it has 0 to {fragment.depth - 1}; move the "
            "window with --layer-start, or repeat the outermost layer with --repeat-layers"
        )
    return contract
