"""The arrays that the tests of remote reading serve, one a layout."""

from __future__ import annotations

import numpy as np
from numcodecs import Blosc, GZip, Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec

VOLUME = np.random.default_rng(7).integers(0, 60, (4, 40, 48)).astype("u1")
BOX = np.s_[:, 3:30, 20:45]
CHECKED = ZstdCodec(level=1, checksum=True)
LAYOUTS = {
    "raw": {"zarr_format": 2, "chunks": (4, 16, 16), "compressors": None},
    "gzip": {"zarr_format": 2, "chunks": (4, 16, 16), "compressors": GZip(1)},
    "zstd": {"zarr_format": 2, "chunks": (4, 16, 16), "compressors": Zstd(1, checksum=True)},
    "blosc": {"zarr_format": 2, "chunks": (4, 16, 16), "compressors": Blosc("lz4")},
    "v3": {"zarr_format": 3, "chunks": (4, 16, 16), "compressors": CHECKED},
    "sharded": {"zarr_format": 3, "chunks": (4, 8, 8), "shards": (4, 16, 16), "compressors": CHECKED},
    "crc": {"zarr_format": 3, "chunks": (4, 8, 8), "shards": (4, 16, 16), "compressors": Crc32cCodec()},
}
SHARDED = ("sharded", "crc")
FAULTS = ["drop", "cut", "cut_stated", "flip", "empty", "500", "503", "429"]
