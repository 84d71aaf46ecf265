"""A small fragment with a map of it, for the tests of `zoo.evaluate`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.zoo.evaluate.maps import SHAPE, soft, write_planes
from zoo.metrics import threshold_at


@pytest.fixture(autouse=True)
def titles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The title of each picture that would be drawn; drawing takes seconds, so only who asks for `drawn` does any."""
    seen: list[str] = []
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("zoo.evaluate.command.draw_evaluation", lambda *found: seen.append(found[2]))
    return seen


@pytest.fixture
def drawn() -> None:
    """To be asked for by a test that looks at the picture itself."""


@pytest.fixture
def planes() -> dict[str, np.ndarray]:
    label = np.zeros(SHAPE, np.uint8)
    cv2.putText(label, "INK", (15, 110), cv2.FONT_HERSHEY_SIMPLEX, 3.3, (1,), 12)
    mask, supervised, validation = (np.ones(SHAPE, bool) for _ in range(3))
    mask[:, :20] = False
    supervised[130:] = False
    validation[:, 120:] = False
    return {"inklabels": label, "mask": mask, "supervision_mask": supervised, "validation_mask": validation}


@pytest.fixture
def fragment(tmp_path: Path, planes: dict[str, np.ndarray]) -> Path:
    return write_planes(tmp_path / "one", **planes)


@pytest.fixture
def prob(planes: dict[str, np.ndarray]) -> np.ndarray:
    """At bin edges, so that scikit-learn sees the ties that a histogram makes."""
    raw = soft(planes["inklabels"], 2)
    return np.vectorize(threshold_at)((raw * 40).astype(int) * 20 + 100)


@pytest.fixture
def saved(tmp_path: Path, prob: np.ndarray) -> Path:
    np.save(tmp_path / "map.npy", prob)
    return tmp_path / "map.npy"
