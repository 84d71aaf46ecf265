"""The phantom: a synthetic fragment, made in seconds from a seed, that needs no download.

    from data_recipes.phantom import phantom_fragment
    open_fragment(phantom_fragment("phantom:dipole:7"))

Development seeds carry labels as people draw them; test seeds carry exact ones, and nothing may be trained on them.
"""

from __future__ import annotations

from .build import DEV_SEEDS, INKS, LAYERS, TEST_SEEDS, VERSION, Ink, PhantomArrays, make_phantom
from .ceiling import Ceiling
from .store import cache_folder, parse_spec, phantom_fragment, write_phantom

__all__ = [
    "DEV_SEEDS",
    "INKS",
    "LAYERS",
    "TEST_SEEDS",
    "VERSION",
    "Ceiling",
    "Ink",
    "PhantomArrays",
    "cache_folder",
    "make_phantom",
    "parse_spec",
    "phantom_fragment",
    "write_phantom",
]
