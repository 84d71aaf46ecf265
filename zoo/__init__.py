"""A 3D-aware model zoo for ink detection in X-ray CT of carbonised papyrus.

>>> from zoo import create_model, list_models, model_card
>>> model = create_model("repmode_tiny", depth=16, tile=96)

Importing this package loads no torch: a model's library is loaded when the model is made.
"""

from __future__ import annotations

from zoo.registry import create_model, list_families, list_models, model_card, resolve_name

__version__ = "0.1.0"
__all__ = ["create_model", "list_families", "list_models", "model_card", "resolve_name"]
