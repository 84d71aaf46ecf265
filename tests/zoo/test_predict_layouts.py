"""A map does not depend on the layout that its layers lie in, on noise and on the real tile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_recipes.convert import convert
from data_recipes.fragment import open_fragment
from tests.data_recipes.faulty_server import serving
from tests.zoo.segments import CONTRACT, KNOWN, write_checkpoint, write_segment
from zoo.predict.__main__ import PredictOptions
from zoo.predict.command import predict_command

SHARD = 256
DEPTH = 13  # layers of the real tile


@pytest.fixture(scope="module", params=["noise", "real tile"])
def layouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same layers as TIFF stack, zarr v2, sharded zarr v3, and both of these over HTTP."""
    root = tmp_path_factory.mktemp("layouts")
    if request.param == "noise":
        source = root / "noise"
        write_segment(source, 300, 520, depth=DEPTH, known=KNOWN.replace("center_layer: 2", "center_layer: 6"))
    else:
        source: Path = request.getfixturevalue("real_tile")
    fragment = open_fragment(source)
    convert(source, root / "v3.zarr", progress=False)
    height, width = fragment.shape
    layers = fragment.read(0, height, 0, width, 0, DEPTH)
    zarr.create_array(root / "v2/volume.zarr", data=layers, chunks=(DEPTH, 100, 128), zarr_format=2)
    known = source / "fragment.yaml"
    if known.is_file():
        (root / "v2/fragment.yaml").write_bytes(known.read_bytes())
    with serving(root) as server:
        yield {
            "TIFF": str(source),
            "zarr v2": str(root / "v2/volume.zarr"),
            "zarr v3": str(root / "v3.zarr"),
            "zarr v2 over HTTP": f"{server.url}/v2/volume.zarr",
            "zarr v3 over HTTP": f"{server.url}/v3.zarr",
        }


def test_every_layout_gives_the_same_map(layouts: dict[str, str], tmp_path: Path) -> None:
    fragment = open_fragment(layouts["TIFF"])
    contract = CONTRACT.model_copy(update={"depth": DEPTH, "voxel_um": fragment.voxel_um})
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", contract=contract)
    maps = {}
    for name, path in layouts.items():
        out = tmp_path / f"{name}.zarr".replace(" ", "-")
        options = PredictOptions(
            path, str(checkpoint), out, device="cpu", shard=SHARD, dtype="float16", region=(f"0,{SHARD},100,400",)
        )
        assert predict_command(options) == 0
        maps[name] = np.asarray(zarr.open_array(out / "0", mode="r")[:])
    shown = maps["TIFF"][:SHARD, : 2 * SHARD]
    assert maps["TIFF"].shape == fragment.shape
    assert len(np.unique(shown)) > 20
    for name, one in maps.items():
        assert np.array_equal(one, maps["TIFF"]), name
