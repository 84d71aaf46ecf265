"""What a trained model mixes and rests on: planted models whose answer is known."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_recipes.fragment import Fragment, open_fragment
from data_recipes.tiles import InputContract
from zoo import create_model, list_families, model_card, resolve_name
from zoo.card import ModelCard
from zoo.checkpoint import save_checkpoint
from zoo.explain.__main__ import DepthOptions, ExpertsOptions
from zoo.explain.command import depth_command, experts_command
from zoo.explain.depth import draw_corners, ink_log_odds, layer_importance, occlude, stored_layers
from zoo.explain.experts import gates_table, read_gates
from zoo.models.base import Heads, InkModel
from zoo.models.mode_conv import MoDEConv3d
from zoo.models.repmode import RepMode

DATA = "phantom:dipole:3:192"  # 144 × 192 px, 16 layers
CARD = ModelCard(name="planted", family="planted", summary="reads one layer", depth=6, tile=32)


class Planted(InkModel):
    """Its log-odds are one layer's values, times `gain`."""

    def __init__(self, *, depth: int, tile: int, classes: int = 1, layer: int = 3, gain: float = 2.0):
        super().__init__(CARD, depth=depth, tile=tile, classes=classes)
        self.layer = layer
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        ink = volume[:, :, self.layer] * self.gain
        if self.classes == 1:
            return Heads([ink])
        return Heads([torch.cat([torch.zeros_like(ink), ink.repeat(1, self.classes - 1, 1, 1)], dim=1)])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    module = types.ModuleType("planted_models")
    module.__dict__.update(CARDS={"planted": CARD}, build_planted=Planted)
    monkeypatch.setitem(sys.modules, "planted_models", module)
    return "planted_models:build_planted"


@pytest.fixture(scope="module")
def fragment() -> Fragment:
    return open_fragment(DATA)


def contract(depth: int, **changes) -> InputContract:
    return InputContract(stored_dtype="uint8", depth=depth, tile=32, mean=0.4, std=0.2, **changes)


def saved(folder: Path, name: str, *, config: dict | None = None, classes: int = 1, depth: int = 6, **options) -> Path:
    model = create_model(name, depth=depth, tile=32, classes=classes, **options)
    path = folder / "last.safetensors"
    return save_checkpoint(path, model, name=name, options=options, contract=contract(depth), config=config or {})


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("fill", ["neighbours", "mean"])
def test_a_model_that_reads_one_layer_rests_on_that_layer(classes: int, fill) -> None:
    model = Planted(depth=6, tile=32, classes=classes, layer=2)
    seen = layer_importance(model, torch.randn(1, 1, 6, 32, 32), fill=fill, batch_size=4)
    only = np.eye(6)[2]
    np.testing.assert_allclose(seen.gradient, only, atol=1e-6)
    assert seen.occlusion[2] > 0.1
    np.testing.assert_array_equal(seen.occlusion * (1 - only), np.zeros(6))


def test_occlusion_is_the_change_of_the_probability_by_hand() -> None:
    volume = torch.zeros(1, 1, 3, 8, 8)
    volume[:, :, 1] = 1.0
    card_free = Planted(depth=3, tile=8, layer=1, gain=1.0)
    seen = layer_importance(card_free, volume)
    ink = 1 / (1 + np.exp(-1.0))
    assert seen.occlusion == pytest.approx([0, ink - 0.5, 0])
    assert seen.change == pytest.approx(np.full((8, 8), 0.5 - ink), abs=1e-6)
    assert seen.probability == pytest.approx(np.full((8, 8), ink), abs=1e-6)
    blurred = layer_importance(card_free, volume, fill="mean")
    assert blurred.occlusion[1] == pytest.approx(ink - 1 / (1 + np.exp(-1 / 3)))


def test_only_papyrus_counts() -> None:
    volume = torch.zeros(1, 1, 4, 8, 8)
    volume[0, 0, 2, :, 4:] = 5.0
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    model = Planted(depth=4, tile=8, layer=2)
    assert layer_importance(model, volume, mask).occlusion.max() == 0
    assert layer_importance(model, volume, ~mask).occlusion.max() > 0.4
    with pytest.raises(ValueError, match="no pixel of the tile counts"):
        layer_importance(model, volume, mask & False)


def test_a_model_trained_on_the_mean_rests_on_all_layers_alike() -> None:
    model = Planted(depth=6, tile=16, layer=2)
    seen = layer_importance(model, torch.randn(1, 1, 6, 16, 16), degraded="zmean")
    assert seen.gradient == pytest.approx(np.full(6, 1 / 6))
    assert seen.occlusion.min() > 0


def test_how_many_are_computed_at_once_changes_nothing() -> None:
    model, volume = create_model("repmode_tiny", depth=5, tile=32), torch.randn(1, 1, 5, 32, 32)
    one, many = (layer_importance(model, volume, batch_size=size) for size in (1, 5))
    np.testing.assert_allclose(one.occlusion, many.occlusion, atol=1e-6)
    assert model.training, "the model's mode is left as it was"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_answer_that_does_not_depend_on_the_input_rests_on_nothing() -> None:
    class Constant(Planted):
        def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
            return Heads([self.gain.expand(len(volume), 1, *volume.shape[-2:])])

    seen = layer_importance(Constant(depth=3, tile=8), torch.randn(1, 1, 3, 8, 8))
    assert not seen.gradient.any() and not seen.occlusion.any()


def test_one_layer_gives_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="planted reads one layer, so there is nothing to compare"):
        layer_importance(Planted(depth=1, tile=8, layer=0), torch.zeros(1, 1, 1, 8, 8))


def test_layers_are_replaced_by_their_neighbours_or_the_mean() -> None:
    volume = torch.tensor([0.0, 3.0, 4.0, 9.0])[None, None, :, None, None].expand(1, 1, 4, 2, 2)
    beside = occlude(volume, range(4))[:, 0, :, 0, 0]
    assert beside.tolist() == [[3, 3, 4, 9], [0, 2, 4, 9], [0, 3, 6, 9], [0, 3, 4, 4]]
    assert occlude(volume, range(1, 2), "mean")[0, 0, :, 0, 0].tolist() == [0, 4, 4, 9]
    with pytest.raises(ValueError, match="fill 'zero' is unknown; allowed: neighbours, mean"):
        occlude(volume, range(1), "zero")  # type: ignore[arg-type]


def test_log_odds_of_several_classes_are_those_of_any_ink() -> None:
    logits = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(ink_log_odds(logits).sigmoid(), 1 - logits.softmax(1)[:, 0])


@pytest.mark.parametrize("family", list_families())
def test_every_family_can_be_explained(family: str) -> None:
    name = resolve_name(family)
    side = max(model_card(name).min_tile, model_card(name).multiple)
    seen = layer_importance(create_model(name, depth=3, tile=side), torch.randn(1, 1, 3, side, side))
    assert seen.gradient.sum() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(seen.occlusion).all() and seen.occlusion.max() > 0


# -- tiles of a fragment -----------------------------------------------------------------------------------------------


def test_tiles_are_drawn_on_papyrus_and_by_their_seed(fragment: Fragment) -> None:
    corners = draw_corners(fragment, 32, 10, seed=1)
    assert len(set(corners)) == 10
    assert corners == draw_corners(fragment, 32, 10, seed=1) != draw_corners(fragment, 32, 10, seed=2)
    for y, x in corners:
        assert fragment.papyrus[y : y + 32, x : x + 32].mean() >= 0.5
        assert 0 <= y <= fragment.shape[0] - 32 and 0 <= x <= fragment.shape[1] - 32


def test_where_papyrus_is_scarce_the_fullest_tiles_do(fragment: Fragment, monkeypatch: pytest.MonkeyPatch) -> None:
    little = np.zeros(fragment.shape, bool)
    little[:40, :40] = True
    monkeypatch.setattr(fragment, "papyrus", little)
    assert all(little[y : y + 64, x : x + 64].any() for y, x in draw_corners(fragment, 64, 3, seed=0))
    monkeypatch.setattr(fragment, "papyrus", little & False)
    with pytest.raises(ValueError, match="no papyrus was found"):
        draw_corners(fragment, 64, 3, seed=0)


def test_layers_are_named_as_the_fragment_stores_them(fragment: Fragment) -> None:
    centre = fragment.center_layer
    assert stored_layers(contract(6), fragment) == list(range(centre - 3, centre + 3))
    assert stored_layers(contract(6, offset=2), fragment) == list(range(centre - 1, centre + 5))
    backwards = stored_layers(contract(6, direction="reverse"), fragment)
    assert backwards == sorted(backwards, reverse=True)
    for layer, stored in enumerate(backwards):
        stack = contract(6, direction="reverse").read(fragment, 0, 0)
        np.testing.assert_array_equal(stack[layer], fragment.volume[stored, :32, :32])  # type: ignore[index]


# -- commands ----------------------------------------------------------------------------------------------------------


def test_depth_on_a_fragment(planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], fragment) -> None:
    path = saved(tmp_path, planted, layer=4)
    depth_command(DepthOptions(path, DATA, tiles=3, device="cpu"))
    out = capsys.readouterr().out
    assert "planted_models:build_planted on phantom-dipole-3-144x192, 3 tiles of 32 px" in out
    rows = list(csv.DictReader((tmp_path / "explain" / "depth.csv").read_text().splitlines()))
    assert [float(row["gradient"]) for row in rows] == pytest.approx([0, 0, 0, 0, 1, 0], abs=1e-6)
    assert [float(row["occlusion"]) > 0 for row in rows] == [False] * 4 + [True, False]
    assert int(rows[4]["stored"]) == fragment.center_layer + 1
    facts = json.loads((tmp_path / "explain" / "depth.json").read_text())
    assert len(facts["corners"]) == len(facts["occlusion_by_tile"]) == 3 and facts["fill"] == "neighbours"
    with Image.open(tmp_path / "explain" / "depth.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(2**24) or ()) > 50
    assert str(tmp_path / "explain" / "depth.png") in out


def test_depth_on_one_tile_twice_gives_the_same(planted: str, tmp_path: Path) -> None:
    path = saved(tmp_path, planted, classes=2)
    for name in ("a", "b"):
        depth_command(DepthOptions(path, DATA, tile=("40,64",), fill="mean", device="cpu", out=tmp_path / name))
    first, second = ((tmp_path / name / "depth.csv").read_text() for name in ("a", "b"))
    assert first == second
    assert json.loads((tmp_path / "a" / "depth.json").read_text())["corners"] == [[40, 64]]


def test_what_training_did_to_the_input_is_done_here(planted: str, tmp_path: Path) -> None:
    path = saved(tmp_path, planted, config={"train": {"degrade": "zmean"}})
    depth_command(DepthOptions(path, DATA, tiles=1, device="cpu"))
    shares = [row["gradient"] for row in json.loads((tmp_path / "explain" / "depth.json").read_text())["layers"]]
    assert shares == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tile": ("12",)}, "--tile 12: expected Y,X"),
        ({"tile": ("0,999",)}, "--tile 0,999 lies outside phantom.*144 rows and 192 columns"),
        ({"tiles": 0}, "--tiles 0 is not possible"),
        ({"batch_size": 0}, "--batch-size 0 is not possible"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
    ],
)
def test_mistakes_are_told(planted: str, tmp_path: Path, changes: dict, says: str) -> None:
    path = saved(tmp_path, planted)
    with pytest.raises(ValueError, match=says):
        depth_command(dataclasses.replace(DepthOptions(path, DATA, device="cpu"), **changes))


def test_several_fragments_at_once_are_not_mixed(planted: str, tmp_path: Path, root: Path, monkeypatch) -> None:
    path = saved(tmp_path, planted)
    both = {"one": open_fragment(DATA), "two": open_fragment(DATA)}
    monkeypatch.setattr("zoo.explain.command.open_fragments", lambda paths: both)
    with pytest.raises(ValueError, match=r"holds 2 fragments \(one, two\); give the path of one"):
        depth_command(DepthOptions(path, "folder", device="cpu"))


# -- experts -----------------------------------------------------------------------------------------------------------


def favour(model: RepMode, layer: str, task: int, expert: int) -> None:
    """Give one expert of a layer nearly all the weight for one task."""
    conv = model.net.get_submodule(layer if layer == "last" else f"{layer}.conv")
    assert isinstance(conv, MoDEConv3d)
    gate = conv.gate
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.zero_()
        gate.weight.view(len(model.expert_names()), -1, model.tasks)[expert, :, task] = 20.0


def test_the_favoured_expert_is_found_by_layer_and_task() -> None:
    model = create_model("repmode_tiny", depth=4, tile=32, tasks=2)
    assert isinstance(model, RepMode)
    favour(model, "decoder.0.first", task=1, expert=3)
    favour(model, "last", task=0, expert=0)
    gates = read_gates(model)
    assert gates.values.sum(axis=2) == pytest.approx(np.ones((len(gates.layers), 2)))
    found = {(r["layer"], r["task"], r["expert"]): r["gate"] for r in gates.records()}
    assert found["decoder.0.first", 1, "avg3"] == pytest.approx(1, abs=1e-4)
    assert found["decoder.0.first", 0, "avg3"] == pytest.approx(0.2)
    assert found["last", 0, "conv5"] == pytest.approx(1, abs=1e-4)
    table = gates_table(gates)
    assert table.row_count == 2 * (len(gates.layers) + 1)


def test_layers_come_in_the_order_that_data_meets_them() -> None:
    gates = read_gates(create_model("repmode_tiny", depth=4, tile=32))
    units = [f"{part}.{unit}" for part in ("encoder.0", "encoder.1", "bottleneck", "decoder.1", "decoder.0") for unit in
             ("first", "second")]  # fmt: skip
    assert gates.layers == (*units, "last")


@pytest.mark.parametrize("tasks", [1, 3])
def test_experts_of_a_checkpoint(tasks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, "repmode_tiny", tasks=tasks)
    experts_command(ExpertsOptions(path, out=tmp_path / "there"))
    out = capsys.readouterr().out
    assert "repmode_tiny: mean gate of each expert" in out and "bottleneck.first" in out
    rows = list(csv.DictReader((tmp_path / "there" / "experts.csv").read_text().splitlines()))
    assert len(rows) == 11 * tasks * 5
    assert {row["task"] for row in rows} == {str(task) for task in range(tasks)}
    with Image.open(tmp_path / "there" / "experts.png") as picture:
        assert picture.height > 400
    assert json.loads((tmp_path / "there" / "experts.json").read_text())["model"] == "repmode_tiny"


def test_a_model_of_several_tasks_is_explained_for_the_one_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, "repmode_tiny", tasks=2)
    with pytest.raises(ValueError, match="built for 2 tasks"):
        depth_command(DepthOptions(path, DATA, tiles=1, device="cpu"))
    depth_command(DepthOptions(path, DATA, tiles=1, device="cpu", task=1))
    assert json.loads((tmp_path / "explain" / "depth.json").read_text())["task"] == 1


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zmean has no experts; expected a checkpoint of a repmode model"):
        experts_command(ExpertsOptions(saved(tmp_path, "zmean")))
    model = create_model("repmode_tiny", depth=4, tile=32)
    assert isinstance(model, RepMode)
    with pytest.raises(ValueError, match="its experts are fused into single kernels"):
        read_gates(model.fuse())


def test_a_checkpoint_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        experts_command(ExpertsOptions(Path("nowhere.safetensors")))
