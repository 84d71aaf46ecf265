import hashlib
import http.server
import threading
from functools import partial

import pytest
import torch
from segment_anything import sam_model_registry

from tests.zoo.small_sam import SMALL, small
from zoo import pretrained
from zoo.models import sam
from zoo.models.sam import build_sam_vit_b
from zoo.models.sam_checkpoint import load_official
from zoo.pretrained import OFFICIAL, Official, fetch_official, read_official
from zoo.registry import create_model, model_card


def tensors_of(model):
    """What an official checkpoint of `model` would hold: everything but the Z compression."""
    return {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("compress.")}


def stored(model, path):
    """Writes that checkpoint; gives its name and digest."""
    torch.save(tensors_of(model), path)
    return Official(path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on this machine in the place of the official one, for a small sam_vit_b; and an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    official = stored(small(seed=1), folder / "sam_vit_b_small.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pretrained, "_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(OFFICIAL, "sam_vit_b", official)
    monkeypatch.setitem(sam.SIZES, "sam_vit_b", SMALL)
    yield folder / official.file, requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_checkpoint_gives_the_same_answers(tmp_path):
    source, target = small(seed=1), small(seed=2)
    official = stored(source, tmp_path / "sam.pth")
    load_official(target, read_official(tmp_path / "sam.pth", official))
    volume = torch.randn(1, 1, 5, 64, 64)
    assert torch.equal(target(volume), source(volume))


def test_a_checkpoint_of_another_tile_answers_as_if_resized_while_running():
    source, target = small(tile=64, seed=1), small(tile=96, seed=2)
    load_official(target, tensors_of(source))
    assert target.state_dict()["image_encoder.blocks.1.attn.rel_pos_h"].shape[0] == 2 * 6 - 1
    volume = torch.randn(1, 1, 5, 96, 96)
    torch.testing.assert_close(target(volume), source(volume), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_fits_more_classes_than_it_has_tokens():
    source, target = small(seed=1), small(classes=6, seed=2)
    load_official(target, tensors_of(source))
    tokens = target.mask_decoder.mask_tokens.weight
    assert torch.equal(tokens[:4], source.mask_decoder.mask_tokens.weight)


@pytest.mark.parametrize("compression", ["mean", "mosaic", "fused"])
def test_a_checkpoint_fits_every_compression(compression):
    source, target = small(seed=1), small(compression=compression, seed=2)
    load_official(target, tensors_of(source))
    for key, tensor in tensors_of(source).items():
        if "rel_pos" not in key and "pos_embed" not in key:
            assert torch.equal(target.state_dict()[key], tensor), key


def test_inflated_patches_give_layers_that_are_alike_what_a_grey_picture_gave():
    source, target = small(seed=1), small(compression="inflated", depth=7, seed=2)
    load_official(target, tensors_of(source))
    layer = torch.randn(1, 1, 1, 64, 64)
    torch.testing.assert_close(
        target.embed(layer.expand(-1, -1, 7, -1, -1)), source.encode(layer[:, 0].expand(-1, 3, -1, -1))
    )


def test_an_absent_checkpoint_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"segment_anything/sam_vit_b_01ec64\.pth \(SHA-256 ec2df627"):
        build_sam_vit_b(depth=2, tile=64, checkpoint=tmp_path / "none.pth")


def test_an_altered_checkpoint_is_never_opened(tmp_path):
    path = tmp_path / "sam.pth"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"expected ec2df627.* of sam_vit_b_01ec64\.pth: remove it"):
        build_sam_vit_b(depth=2, tile=64, checkpoint=path)


def test_a_checkpoint_of_another_network_is_refused():
    tensors = tensors_of(small())
    tensors["image_encoder.neck.0.weight"] = torch.zeros(8, 8, 1, 1)
    with pytest.raises(ValueError, match=r"does not fit sam_vit_b.*neck\.0\.weight \(8, 8, 1, 1\)"):
        load_official(small(), tensors)
    with pytest.raises(ValueError, match=r"not of it \['encoder\.weight'\]"):
        load_official(small(), {"encoder.weight": torch.zeros(1)})


@pytest.mark.parametrize("pretrained", [True, "sam_vit_b"])
def test_pretrained_fetches_once_and_keeps_the_file(served, tmp_path, pretrained):
    file, requests = served
    for _ in range(2):
        model = create_model("sam_vit_b", depth=5, tile=64, pretrained=pretrained)
        assert torch.equal(
            model.state_dict()["mask_decoder.iou_token.weight"], small(seed=1).mask_decoder.iou_token.weight
        )
    assert requests == [f"/{file.name}"]
    cached = list((tmp_path / "cache").rglob("*"))
    assert [path.name for path in cached if path.is_file()] == [file.name], "and nothing unfinished"
    assert (tmp_path / "cache" / "sam" / file.name).stat().st_mode & 0o044


def test_what_is_not_the_official_file_is_not_kept(served, tmp_path):
    file, _ = served
    file.write_bytes(b"a page that says: please log in")
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected .*: try again, or get http"):
        build_sam_vit_b(depth=5, tile=64, pretrained=True)
    assert list((tmp_path / "cache" / "sam").iterdir()) == []


def test_without_a_network_it_says_how_to_get_the_file(served, tmp_path):
    file, _ = served
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"none could be fetched \(.*404.*get http.*{file.name} \(SHA-256"):
        build_sam_vit_b(depth=5, tile=64, pretrained=True)
    assert list((tmp_path / "cache" / "sam").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="which cannot be written .*set INKZOO_CACHE"):
        fetch_official(OFFICIAL["sam_vit_b"])


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_every_tensor_of_an_official_checkpoint_has_its_place(name):
    with torch.device("meta"):
        ours = tensors_of(create_model(name, depth=16, tile=1024))
        theirs = sam_model_registry[name.removeprefix("sam_")]().state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def test_every_variant_has_its_official_file_and_starts_from_it_only_once():
    for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h"):
        assert OFFICIAL[name].file.startswith(name) and len(OFFICIAL[name].sha256) == 64
        assert model_card(name).init_options == ("checkpoint", "pretrained")
