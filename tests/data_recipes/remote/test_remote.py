"""A zarr on a server: the same fragment as on the disk, or one line that says why there is none."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from data_recipes.convert import convert
from data_recipes.formats import transfer
from data_recipes.formats.chunk_cache import cache
from data_recipes.formats.remote import RemotePath, is_url
from data_recipes.fragment import absolute_data, open_fragment, open_fragments
from data_recipes.info import describe
from data_recipes.stamp import data_stamp
from tests.data_recipes.faulty_server import FaultyServer, serving
from tests.data_recipes.remote.served import VOLUME


def test_a_remote_fragment_is_the_local_one(server: FaultyServer, folder: Path) -> None:
    local = open_fragment(folder / "x.zarr")
    (remote,) = open_fragments([f"{server.url}/x.zarr/"]).values()
    assert remote.volume is not None and local.volume is not None
    assert server.chunks() == {}, "nothing is read of the voxels before a slice is asked for"
    told, expected = describe(remote), describe(local)
    assert told.pop("path") == f"{server.url}/x.zarr" and expected.pop("path")
    planes = told.pop("planes")
    assert planes == {kind: f"{server.url}/x.zarr/planes/{kind}" for kind in expected.pop("planes")}
    assert told == expected
    for at in (np.s_[:, 5:130, 100:140], np.s_[3, ::7, 2::3], np.s_[-1], np.s_[2:9, 150:, 250:], np.s_[...]):
        assert np.array_equal(remote.volume[at], local.volume[at])
    assert np.array_equal(remote.read(-4, 30, 240, 280, 2, 8), local.read(-4, 30, 240, 280, 2, 8))
    assert data_stamp(remote) == data_stamp(local)


def test_a_fragment_pickles_as_its_url(server: FaultyServer) -> None:
    fragment = open_fragment(f"{server.url}/x.zarr", name="mine")
    pickled = pickle.dumps(fragment)
    assert f"{server.url}/x.zarr".encode() in pickled and len(pickled) < 300
    again = pickle.loads(pickled)
    assert again.name == "mine" and again.path == fragment.path == pickle.loads(pickle.dumps(fragment.path))
    assert np.array_equal(again.label[...], fragment.label[...])


def test_a_level_and_a_whole_group_open(server: FaultyServer) -> None:
    whole, level = open_fragment(f"{server.url}/x.zarr"), open_fragment(f"{server.url}/x.zarr/0")
    assert level.volume is not None and whole.volume is not None and level.name == whole.name
    assert level.voxel_um == whole.voxel_um is not None
    assert np.array_equal(level.volume[4, 3:9], whole.volume[4, 3:9])
    with pytest.raises(ValueError, match="holds no array named 0; name the array's own URL"):
        open_fragment(f"{server.url}/x.zarr/planes")


def test_opening_costs_few_small_requests(server: FaultyServer) -> None:
    open_fragment(f"{server.url}/x.zarr")
    assert max(server.asked.values()) == 1
    assert len(server.asked) <= 22, sorted(server.asked)


def test_consolidated_metadata_save_requests(server: FaultyServer, folder: Path) -> None:
    for version in (2, 3):
        group = zarr.open_group(folder / f"many{version}.zarr", mode="w", zarr_format=version)
        group.attrs["multiscales"] = [{"version": "0.4", "datasets": [{"path": "a"}, {"path": "b"}]}]
        for name in "ab":
            group.create_array(name, shape=(2, 8, 8), dtype="u1", chunks=(2, 8, 8))[...] = 3
    plain = {}
    for version in (2, 3):
        fragment = open_fragment(f"{server.url}/many{version}.zarr")
        assert fragment.volume is not None and fragment.volume[0, 0, 0] == 3
        plain[version] = {path for path, _ in server.asked}
        server.forget()
    zarr.consolidate_metadata(str(folder / "many2.zarr"), zarr_format=2)
    top = folder / "many3.zarr" / "zarr.json"
    inside = {name: json.loads((folder / "many3.zarr" / name / "zarr.json").read_text()) for name in "ab"}
    stated = {"kind": "inline", "must_understand": False, "metadata": inside}
    top.write_text(json.dumps(json.loads(top.read_text()) | {"consolidated_metadata": stated}))
    cache.clear()
    for version in (2, 3):
        fragment = open_fragment(f"{server.url}/many{version}.zarr")
        assert fragment.volume is not None and fragment.volume[0, 0, 0] == 3
        asked = {path for path, _ in server.asked}
        assert len(asked) < len(plain[version])
        assert not [path for path in asked if "/a/" in path and "zarr" in path.rpartition("/")[2]]
        server.forget()


def test_planes_and_settings_beside_it_are_found(server: FaultyServer, folder: Path) -> None:
    mask = (np.indices(VOLUME.shape[1:]).sum(0) % 3 > 0).astype("u1")
    zarr.create_array(folder / "gzip_mask.zarr", shape=mask.shape, dtype="u1", zarr_format=2)[...] = mask
    zarr.create_array(folder / "gzip_inklabels.zarr", shape=mask.shape, dtype="u1", zarr_format=3)[...] = mask * 255
    (folder / "gzip.fragment.yaml").write_text("voxel_um: 3.24\ncenter_layer: 1\nname: other\n")
    fragment = open_fragment(f"{server.url}/gzip.zarr")
    assert (fragment.name, fragment.voxel_um, fragment.center_layer) == ("other", 3.24, 1)
    assert fragment.label is not None and np.array_equal(fragment.label[...], mask)
    assert np.array_equal(fragment.papyrus[...], mask > 0)
    alone = open_fragment(f"{server.url}/v3.zarr")
    assert any("v3_mask.zarr and v3_inklabels.zarr beside it were looked for" in note for note in alone.notes)


def test_a_second_label_in_a_conversion_or_named_beside_it_is_found(server: FaultyServer, folder: Path) -> None:
    local = folder / "local"
    local.mkdir()
    for kind, plane in (("inklabels", VOLUME[0]), ("old", VOLUME[1])):
        Image.fromarray((plane > 40).astype("u1") * 255).save(local / f"{kind}.png")
    tifffile.imwrite(local / "layers.tif", VOLUME, photometric="minisblack")
    (local / "fragment.yaml").write_text("other_label: old.png\n")
    convert(local / "layers.tif", folder / "two.zarr", progress=False, chunk=(4, 8, 8), shard=(4, 16, 16))
    inside = open_fragment(f"{server.url}/two.zarr").other_label
    assert inside is not None and np.array_equal(inside[...], VOLUME[1] > 40)

    zarr.create_array(folder / "crc_other.zarr", shape=VOLUME.shape[1:], dtype="u1")[...] = VOLUME[2] > 40
    (folder / "crc.fragment.yaml").write_text("other_label: crc_other.zarr\n")
    beside = open_fragment(f"{server.url}/crc.zarr").other_label
    assert beside is not None and np.array_equal(beside[...], VOLUME[2] > 40)


def test_refused_access_is_told_and_not_asked_for_again(server: FaultyServer) -> None:
    fragment = open_fragment(f"{server.url}/v3.zarr")
    assert fragment.volume is not None
    server.faults = {"/v3.zarr/*": ["403", ...], "/x_*": ["401", ...]}
    with pytest.raises(PermissionError, match=r"v3.zarr/c/0/0/0: the server refuses access \(HTTP 403\)"):
        fragment.volume[0, 0, 0]
    assert server.chunks() == {("/v3.zarr/c/0/0/0", ""): 1}
    with pytest.raises(PermissionError, match=r"v3.zarr/zarr.json: the server refuses access"):
        open_fragment(f"{server.url}/v3.zarr")
    beside = open_fragment(f"{server.url}/x.zarr")
    assert any(note.startswith("the server refused access to 12 names, taken as not there") for note in beside.notes)


def no_such_name(*_: object, **__: object) -> None:
    """The answer to a name that nobody has, without asking the network."""
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/x.zarr", "not read: nobody answers at 127.0.0.1:1 (connection refused) (2 tries); is the"),
        ("http://inkzoo.invalid/x.zarr", "not read: no network address is known for the name inkzoo.invalid (2 tries)"),
        ("s3://bucket/x.zarr", "not read: nobody answers at http://127.0.0.1:1 (2 tries); is the server up"),
    ],
)
def test_without_a_connection_one_plain_line_says_why(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    if "invalid" in url:
        monkeypatch.setattr("socket.getaddrinfo", no_such_name)
    monkeypatch.setenv("INKZOO_REMOTE_TRIES", "2")
    monkeypatch.setenv("INKZOO_REMOTE_PAUSE", "0.01")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody listens on this port
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    if url.startswith("s3:"):
        pytest.importorskip("s3fs", reason="needs s3fs")
        transfer.close()  # a client of an earlier test asks at another endpoint
    with pytest.raises(OSError, match=rf"^{re.escape(url)}/zarr.json: {re.escape(words)}") as caught:
        open_fragment(url)
    if url.startswith("s3:"):
        transfer.close()
    assert not set("\n{}[]<>") & set(str(caught.value)), "nothing of another library's own wording"
    assert "Error" not in str(caught.value)


def test_a_server_without_https_is_told_from_one_that_is_not_there(server: FaultyServer) -> None:
    with pytest.raises(OSError, match=r"zarr.json: no trusted connection \(wrong version number\); is its certificate"):
        open_fragment(server.url.replace("http:", "https:") + "/v3.zarr")


def test_nothing_there_says_so(server: FaultyServer, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.zarr: no zarr there"):
        open_fragment(f"{server.url}/absent.zarr")
    with pytest.raises(ValueError, match=r"~/.netrc") as caught:
        open_fragment("https://me:secret@host/x.zarr")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be in a zarr's URL") as caught:
        open_fragment("https://host/x.zarr?token=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("known", [False, True])
def test_s3_is_read_with_credentials_or_anonymously(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    if known:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    remote, local = open_fragment("s3://bucket/x.zarr"), open_fragment(folder / "x.zarr")
    assert remote.volume is not None and local.volume is not None
    assert set(server.signed) == {known}
    assert any("read anonymously" in note for note in remote.notes) is not known
    at = np.s_[2:9, 20:60, 30:60]
    for fault in ("cut", "flip", "503", "ignore_range"):
        cache.clear()
        server.forget()
        server.faults = {"/bucket/x.zarr/0/c/*": [fault]}
        assert np.array_equal(remote.volume[at], local.volume[at]), fault
        server.faults = {"/bucket/x.zarr/0/c/0/0/0": [fault, ...]}
        cache.clear()
        with pytest.raises((ValueError, OSError), match=r"^s3://bucket/x.zarr/0/c/0/0/0 "):
            remote.volume[at]
    server.faults = {"/bucket/*": ["403", ...]}
    with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID"):
        open_fragment("s3://bucket/x.zarr")


def test_conversion_from_a_server_and_its_continuation(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    source = f"{server.url}/x.zarr"
    server.faults = {"/x.zarr/0/c/0/1/1": ["500", ...]}
    with pytest.raises(OSError, match="HTTP 500"):
        convert(source, tmp_path / "copy.zarr", progress=False, chunk=(8, 32, 32), shard=(16, 128, 128))
    assert (tmp_path / "copy.zarr.partial").is_dir()
    server.faults = {}
    written = convert(source, tmp_path / "copy.zarr", progress=False, chunk=(8, 32, 32), shard=(16, 128, 128))
    copy, local = open_fragment(written), open_fragment(folder / "x.zarr")
    assert copy.volume is not None and copy.label is not None and local.volume is not None and local.label is not None
    assert np.array_equal(copy.volume[...], local.volume[...]) and np.array_equal(copy.label[...], local.label[...])
    with pytest.raises(ValueError, match="they are one fragment"):
        open_fragments([source, written])


def test_a_url_is_told_from_a_path() -> None:
    assert is_url("https://host/x.zarr") and is_url(Path("http://host/x.zarr")) and is_url("s3://bucket/x.zarr")
    assert not is_url("http.zarr") and not is_url("/data/https/x.zarr") and not is_url("phantom:dipole:3")
    assert absolute_data(["s3://bucket/x.zarr", "phantom:dipole:3"]) == ["s3://bucket/x.zarr", "phantom:dipole:3"]
    path = RemotePath("HTTPS://host/a%20b/x.ome.zarr/")
    assert (str(path), path.name, path.suffix) == ("https://host/a%20b/x.ome.zarr", "x.ome.zarr", ".zarr")
    assert str(path.parent) == "https://host/a%20b" and path.parent.name == "a b"
    assert str(path / "c/0" / "1") == "https://host/a%20b/x.ome.zarr/c/0/1"
    assert str(RemotePath("s3://bucket/a b/x.zarr").parent.parent) == "s3://bucket"


def test_pauses_double_and_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = transfer.Limits(timeout=1, tries=9, pause=0.5)
    for attempt, middle in ((1, 0.5), (2, 1.0), (4, 4.0), (40, transfer.LONGEST_PAUSE)):
        assert 0.5 * middle <= limits.before(attempt) <= 1.5 * middle
    for wrong in ("soon", "-1", "nan", "0"):
        monkeypatch.setenv("INKZOO_REMOTE_TIMEOUT", wrong)
        with pytest.raises(ValueError, match=f"INKZOO_REMOTE_TIMEOUT={wrong}: expected a number above 0"):
            transfer.Limits.from_environment()


_LOCAL = """
import sys
from data_recipes.fragment import open_fragment
assert open_fragment(sys.argv[1]).volume.shape
assert not {"fsspec", "aiohttp", "s3fs", "botocore", "zarr"} & set(sys.modules), sorted(sys.modules)
"""
_WORKERS = """
import os, pickle, sys
from data_recipes.fragment import open_fragment
urls = sys.argv[1:]
fragments = [open_fragment(url) for url in urls]
sums = [int(fragment.volume[:, :40, :40].sum()) for fragment in fragments]
fragments[0].path.look("unread")
child = os.fork()
if child == 0:  # the array that the parent opened, one that is opened anew, and a file that the parent waited for
    again = pickle.loads(pickle.dumps(fragments))
    both = [[int(one.volume[:, :40, :40].sum()) for one in some] for some in (fragments, again)]
    sys.exit(0 if both == [sums, sums] and not (fragments[0].path / "unread").is_file() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child read something else"
assert [int(fragment.volume[:, 40:80, :40].sum()) for fragment in fragments], "the parent's connection still works"
"""


def _python(source: str, *arguments: str) -> str:
    given = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", source]
    done = subprocess.run([*command, *arguments], env=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_local_fragment_opens_without_the_remote_libraries(folder: Path) -> None:
    _python(_LOCAL, str(folder / "x.zarr"))


def test_a_forked_worker_connects_anew_and_nothing_is_left_open_at_exit(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("INKZOO_CHUNK_CACHE_MB", "0.0001")  # nothing fits: each reads for itself
    server.faults = {"/v3.zarr/unread": ["wait"]}
    stderr = _python(_WORKERS, f"{server.url}/v3.zarr", "s3://bucket/v3.zarr")
    assert not stderr


def test_the_real_tile_from_a_server_gives_the_same_tiles(
    real_tile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cache.clear()
    convert(real_tile, tmp_path / "tile.zarr", progress=False)
    tiff = open_fragment(real_tile)
    with serving(tmp_path) as server:
        remote = open_fragment(f"{server.url}/tile.zarr")
        assert remote.volume is not None and tiff.volume is not None and remote.label is not None
        for y, x in np.random.default_rng(0).integers(0, 1744, (12, 2)):
            box = (y, y + 256, x, x + 256, 0, 13)
            assert np.array_equal(remote.read(*box), tiff.read(*box))
        assert np.array_equal(remote.volume[...], tiff.volume[...])
        assert tiff.label is not None and np.array_equal(remote.label[...], tiff.label[...])
        assert set(server.chunks().values()) == {1}
    transfer.close()
    cache.clear()
