"""Asking for help costs nothing: neither `import zoo` nor a command's `--help` loads a heavy library.

On modules rather than on seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "torchvision",
    "lightning_fabric",
    "kornia",
    "monai",
    "timm",
    "segmentation_models_pytorch",
    "segment_anything",
    "matplotlib",
    "scipy",
    "sklearn",
    "cv2",
    "zarr",
    "imagecodecs",
    "fsspec",
    "aiohttp",
    "botocore",
    "ray",
    "jinja2",
)
COMMANDS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in ("zoo", "data_recipes")
    for path in (ROOT / package).rglob("__main__.py")
)
SUBCOMMANDS = {
    "zoo": ("list", "show"),
    "zoo.explain": ("experts", "depth"),
    "data_recipes": ("info", "convert", "build", "preview", "augment"),
}
HELP_CALLS = [
    *((command, "--help") for command in COMMANDS),
    *((command, sub, "--help") for command in COMMANDS for sub in SUBCOMMANDS.get(command, ())),
]

REPORT = f"""
import sys
loaded = sorted(set({HEAVY!r}) & set(sys.modules))
assert not loaded, f"loaded without need: {{loaded}}"
"""
RUN_HELP = """
import runpy, sys
sys.argv = [sys.argv[1], *sys.argv[2:]]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
"""


def _python(source: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["zoo", "data_recipes"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    _python(f"import {package}" + REPORT)


def test_the_names_of_all_models_are_known_without_torch() -> None:
    _python("import zoo\nassert zoo.list_models()" + REPORT)


@pytest.mark.parametrize("call", HELP_CALLS, ids=" ".join)
def test_help_loads_nothing_heavy(call: tuple[str, ...]) -> None:
    assert _python(RUN_HELP + REPORT, *call).strip(), "help prints something"
