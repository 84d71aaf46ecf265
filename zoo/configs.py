"""Where the YAML configurations lie: beside the packages in a checkout, inside the package in an install.

The one place that knows. `kind` is a folder of `configs/`: `suites` (what the benchmark runs) or `train`.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

SUFFIXES = (".yaml", ".yml")


def configs_root() -> Path:
    """The folder that holds `suites/` and `train/`.

    Raises:
        FileNotFoundError: neither the installed nor the checkout's folder is there, so the install is damaged.
    """
    package = Path(__file__).resolve().parent
    # The wheel carries configs/ as zoo/_configs; an editable install and a checkout have it one folder up.
    for root in (package / "_configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise FileNotFoundError(f"no configurations beside {package}; install inkzoo again")


def list_configs(kind: str) -> list[str]:
    """Names of the configurations of one kind, sorted.

    Raises:
        ValueError: there is no such kind; the message lists the kinds.
    """
    folder = configs_root() / kind
    kinds = sorted(path.name for path in configs_root().iterdir() if path.is_dir())
    if kind not in kinds:
        raise ValueError(f"no configurations of kind {kind!r}; there are {', '.join(kinds) or 'none'}")
    return sorted(path.stem for path in folder.iterdir() if path.suffix in SUFFIXES)


def config_path(kind: str, name: str) -> Path:
    """The YAML file of a configuration that ships with the project, or of one's own.

    `name` is a name from `list_configs(kind)`, or the path of a file: anything that ends in .yaml or .yml.

    Raises:
        FileNotFoundError: `name` is a path and no file lies there.
        ValueError: no configuration has this name; the message gives the nearest.
    """
    if Path(name).suffix in SUFFIXES:
        if not Path(name).is_file():
            raise FileNotFoundError(f"no such file: {name}")
        return Path(name)
    known = list_configs(kind)
    if name in known:
        folder = configs_root() / kind
        return next(path for path in (folder / f"{name}{suffix}" for suffix in SUFFIXES) if path.is_file())
    nearest = get_close_matches(name, known, n=3, cutoff=0.4) or known
    listed = ", ".join(nearest) or "nothing yet"
    raise ValueError(f"no configuration {name!r} in {kind}; the nearest: {listed} (or give the path of a .yaml file)")
