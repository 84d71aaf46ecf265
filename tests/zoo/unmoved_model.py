"""A model that must not be put on a device as a whole."""

from __future__ import annotations

from typing import Any

from tests.zoo.plain_model import CARDS, Plain

__all__ = ["CARDS", "build_plain"]


class Unmoved(Plain):
    def _apply(self, *_: Any, **__: Any) -> Unmoved:  # what `to` does its work with
        raise AssertionError("the whole model was moved before it was shared out")


build_plain = Unmoved
