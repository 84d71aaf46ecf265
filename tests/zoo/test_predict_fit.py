"""A contract is kept, or changed by what the user says, or the segment is refused with what would force it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_recipes.fragment import Fragment
from data_recipes.tiles import InputContract
from tests.zoo.segments import CONTRACT, write_segment
from zoo.predict.fit import fit_bits, fit_scale, fit_window


def segment(folder: Path, *, stored: type = np.uint8, depth: int = 9, **known: object) -> Fragment:
    said = {"center_layer": 4, "direction": "forward", "voxel_um": 7.91, **known}
    text = "".join(f"{key}: {value}\n" for key, value in said.items() if value is not None)
    return write_segment(folder, 8, 8, depth=depth, known=text, dtype=stored)


def contract(**changed: object) -> InputContract:
    return CONTRACT.model_copy(update=changed)


def refused(_: str) -> None:
    pytest.fail("nothing was to be said")


def bits(found: InputContract) -> tuple[str, str]:
    return found.stored_dtype, found.to_uint8


def test_16_bits_become_8_as_they_did_before_training(tmp_path: Path) -> None:
    sixteen, told = segment(tmp_path, stored=np.uint16), []
    trained = contract(source_to_uint8="high_byte")
    assert bits(fit_bits(trained, sixteen, None, told.append)) == ("uint16", "high_byte")
    assert "high_byte" in told.pop()
    assert bits(fit_bits(trained, sixteen, "clip:0:9", told.append)) == ("uint16", "clip:0:9")
    assert "in training it was high_byte" in told.pop()
    with pytest.raises(ValueError, match="is unknown; say how with --to-uint8 high_byte"):
        fit_bits(contract(), sixteen, None, refused)
    assert bits(fit_bits(contract(), sixteen, "high_byte", told.append)) == ("uint16", "high_byte")
    assert "how it was in training is unknown" in told.pop()
    with pytest.raises(ValueError, match="clipped as if they were 8 bits; give high_byte"):
        fit_bits(trained, sixteen, "none", refused)


def test_8_bits_stand_for_16_only_where_they_came_about_in_the_same_way(tmp_path: Path) -> None:
    trained = contract(stored_dtype="uint16", to_uint8="high_byte")
    same = segment(tmp_path / "a", to_uint8="high_byte")
    assert bits(fit_bits(trained, same, None, refused)) == ("uint8", "none")
    other = segment(tmp_path / "b", to_uint8="clip:0:1000")
    for wanted in (trained, contract(source_to_uint8="high_byte")):
        with pytest.raises(ValueError, match="came from 16 by clip:0:1000, expected high_byte.*--to-uint8 high_byte"):
            fit_bits(wanted, other, None, refused)
        assert bits(fit_bits(wanted, other, "high_byte", refused)) == ("uint8", "none")
    unknown = segment(tmp_path / "c")
    with pytest.raises(ValueError, match="layers are uint8, expected uint16.*--to-uint8 high_byte"):
        fit_bits(trained, unknown, None, refused)
    assert bits(fit_bits(contract(), unknown, None, refused)) == ("uint8", "none")
    told: list[str] = []
    assert bits(fit_bits(contract(), unknown, "high_byte", told.append)) == ("uint8", "none")
    assert told == ["--to-uint8 high_byte changes nothing: how 8 bits came from 16 in training is unknown"]
    with pytest.raises(ValueError, match="to_uint8|high_bite"):
        fit_bits(contract(), unknown, "high_bite", refused)


def test_another_voxel_size_is_refused_resampled_or_ignored(tmp_path: Path) -> None:
    coarse = segment(tmp_path, voxel_um=15.82)
    with pytest.raises(ValueError, match=r"15.82 µm, expected 7.91 µm.*--voxel-size resample.*--voxel-size ignore"):
        fit_scale(contract(), coarse, "refuse", refused)
    told: list[str] = []
    kept, finer, factor = fit_scale(contract(), coarse, "resample", told.append)
    assert (kept, factor, finer.shape, finer.depth) == (contract(), 2.0, (16, 16), 18)
    assert finer.voxel_um == pytest.approx(7.91)
    assert "resampled" in told.pop()
    ignored, same, factor = fit_scale(contract(), coarse, "ignore", told.append)
    assert (ignored.voxel_um, same, factor) == (None, coarse, 1.0)
    near = segment(tmp_path / "near", voxel_um=8.0)
    assert fit_scale(contract(), near, "refuse", refused) == (contract(), near, 1.0)
    fit_scale(contract(), near, "resample", told.append)
    assert told.pop() == "voxels are 8 µm, 7.91 µm in training: no more than 2 % apart, so nothing is resampled"
    fit_scale(contract(), segment(tmp_path / "same"), "resample", told.append)
    assert told.pop() == "voxels are 7.91 µm, as in training: nothing is resampled"
    with pytest.raises(ValueError, match="needs both voxel sizes, and that of unknown is unknown; say it as voxel_um"):
        fit_scale(contract(), segment(tmp_path / "unknown", voxel_um=None), "resample", refused)
    with pytest.raises(ValueError, match="needs both voxel sizes, and the checkpoint does not say that of training"):
        fit_scale(contract(voxel_um=None), coarse, "resample", refused)


def window(found: InputContract, fragment: Fragment) -> tuple[tuple[int, int], bool]:
    """Stored layers, and whether they are read as stored."""
    stored = np.asarray(fragment.read(0, 1, 0, 1, *found.window(fragment)))
    return found.window(fragment), bool(np.array_equal(found.read(fragment, 0, 0, 1, 1), stored))


def fit(fragment: Fragment, told: list[str], base: InputContract = CONTRACT, **asked: object) -> InputContract:
    options = {"direction": None, "start": None, "end": None, "repeat": False, **asked}
    return fit_window(base, fragment, say=told.append, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stated", ["forward", "reverse"])
@pytest.mark.parametrize("trained", ["forward", "reverse"])
def test_direction_and_window_are_as_asked_for_whatever_was_stated(tmp_path: Path, stated: str, trained: str) -> None:
    fragment, base, told = segment(tmp_path, direction=stated), contract(direction=trained), []
    own = "forward" if stated == trained else "reverse"
    assert window(fit(fragment, told, base), fragment) == ((2, 7), own == "forward")
    assert told == []
    for asked in ("forward", "reverse"):
        assert window(fit(fragment, told, base, direction=asked), fragment) == ((2, 7), asked == "forward")
        assert len(told) == (asked != own)
        told.clear()
        for given in ({"start": 3}, {"end": 8}, {"start": 3, "end": 8}):
            assert window(fit(fragment, told, base, direction=asked, **given), fragment) == ((3, 8), asked == "forward")
            assert "layers 3 to 7 are read, as asked for; the contract says 2 to 6" in told.pop()
            told.clear()


def test_what_is_unknown_is_announced_with_the_option_for_it(tmp_path: Path) -> None:
    told: list[str] = []
    fit(segment(tmp_path, direction=None, center_layer=None), told)
    assert any("--direction both" in text for text in told)
    assert any("--layer-start" in text for text in told)
    told.clear()
    fit_scale(CONTRACT, segment(tmp_path / "b", voxel_um=None), "refuse", told.append)
    assert "voxel size unknown" in told.pop()


def test_a_window_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    shallow, told = segment(tmp_path, depth=4, center_layer=2), []
    with pytest.raises(ValueError, match="has 4 layers, the model takes 5.*--repeat-layers"):
        fit(shallow, told)
    assert fit(shallow, told, repeat=True) == CONTRACT
    assert "1 of 5 layers lie outside the volume" in told.pop()
    aside = segment(tmp_path / "aside", center_layer=8)
    with pytest.raises(ValueError, match="layers 6 to 10 are needed, it has 0 to 8.*--layer-start.*--repeat-layers"):
        fit(aside, told)
    with pytest.raises(ValueError, match="are 3 layers, the model takes 5.*--layer-end 6"):
        fit(segment(tmp_path / "b"), told, start=1, end=4)
