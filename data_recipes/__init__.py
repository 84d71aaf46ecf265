"""How samples come to be: fragments on disk, the synthetic phantom, sampling recipes, splits and tiles.

Knows nothing of models: this package imports nothing from `zoo`.
"""

from __future__ import annotations
