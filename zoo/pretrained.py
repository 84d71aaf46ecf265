"""Official weights: where they lie, how they are fetched, and what they must be. Models ask here, and touch no file."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data_recipes.files import cache_folder

_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_CHUNK = 1 << 20
_SECONDS = 30  # without a byte


class Official(NamedTuple):
    """An official file: its name, which ends in a part of its MD5, and its SHA-256."""

    file: str
    sha256: str


OFFICIAL = {
    "sam_vit_b": Official("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam_vit_l": Official("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam_vit_h": Official("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}


def official_tensors(
    name: str, *, checkpoint: str | Path | None = None, pretrained: bool | str = False
) -> dict[str, Tensor] | None:
    """The official tensors of the variant `name`: of the file `checkpoint`, or fetched; None if neither is asked for.

    `pretrained`: True, or the variant's own name.

    Raises:
        ValueError: both at once, another variant's name, a file that is not the official one.
        FileNotFoundError: no file there, or none that can be fetched.
    """
    if checkpoint is not None and pretrained:
        raise ValueError(f"{name}: checkpoint={checkpoint} and pretrained={pretrained!r}: give one of the two")
    if pretrained not in (True, False, None, name):
        raise ValueError(
            f"{name}: pretrained={pretrained!r} is not possible; true or {name!r} fetches its own weights, "
            "checkpoint=PATH reads a file"
        )
    if pretrained:
        checkpoint = fetch_official(OFFICIAL[name])
    return None if checkpoint is None else read_official(checkpoint, OFFICIAL[name])


def fetch_official(official: Official) -> Path:
    """The file in the cache, downloaded at first use.

    Written beside its place, checked, put on the disk and only then renamed: a file that is there is whole, and two
    processes do not disturb each other.

    Raises:
        FileNotFoundError: no network, no such file there, no place to write; says how to get it by hand.
        ValueError: what came is not the official file.
    """
    path = cache_folder() / "sam" / official.file
    if path.is_file():
        return path
    url = _URL + official.file
    by_hand = f"get {url} (SHA-256 {official.sha256}) on another machine and put it there, or give checkpoint=PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{official.file}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise FileNotFoundError(
            f"no SAM checkpoint at {path}, which cannot be written ({error.strerror}): set INKZOO_CACHE, or {by_hand}"
        ) from error
    digest = hashlib.sha256()
    try:
        print(f"fetching {url} to {path}", file=sys.stderr)
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_SECONDS) as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _check_digest(url, digest.hexdigest(), official, "try again, or " + by_hand)
        os.chmod(partial, 0o644)  # a temporary file is its owner's alone
        os.replace(partial, path)
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"no SAM checkpoint at {path}, and none could be fetched ({error}): {by_hand}"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def read_official(path: str | Path, official: Official) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, opened only after its digest matches.

    Raises:
        FileNotFoundError: no such file; the message says where to get it.
        ValueError: its SHA-256 is not that of the official file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no SAM checkpoint at {path}; the official one is {_URL}{official.file} (SHA-256 {official.sha256}); "
            "pretrained=true fetches it"
        )
    with path.open("rb") as file:
        _check_digest(path, hashlib.file_digest(file, "sha256").hexdigest(), official, "remove it and get it again")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_digest(where: str | Path, got: str, official: Official, advice: str) -> None:
    if got != official.sha256:
        raise ValueError(f"{where} has SHA-256 {got}, expected {official.sha256} of {official.file}: {advice}")
