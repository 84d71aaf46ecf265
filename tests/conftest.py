"""What all tests share: where optional real data lies, and which tests a machine without a GPU leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib

# The same examples on every machine, and no time limit on one: a slow machine must not make a test fail.
settings.register_profile("inkzoo", deadline=None, derandomize=True, database=None)
settings.load_profile("inkzoo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch  # costs seconds, and only gpu tests need to know

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _shared(part: str) -> Path:
    """A folder of data that is never part of the project: in $INKZOO_SHARED, or in shared/ beside the checkout."""
    root = Path(os.environ.get("INKZOO_SHARED", ROOT.parent / "shared"))
    path = root / part
    if not path.exists():
        pytest.skip(f"{part} is not here; it lies outside the project, in the folder that INKZOO_SHARED names")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_tile() -> Path:
    """A real CT surface volume in the scroll-segment layout: 13 layers of 2000×2000 px, uint8."""
    return _shared("data/scroll1_tile")


@pytest.fixture(scope="session")
def kaggle_labels() -> Path:
    """The ink labels and papyrus masks of the three Kaggle fragments, in folders 1, 2 and 3; no volumes."""
    return _shared("data/kaggle_labels")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Reference values computed by running the original implementations."""
    return _shared("oracles")
