import json
import subprocess
import sys
import types
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor

import zoo
from zoo import create_model, list_families, list_models, model_card, registry, resolve_name
from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel


class OneWeight(InkModel):
    def __init__(self, card: ModelCard, *, depth: int, tile: int, classes: int, gain: float):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        self.weight = torch.nn.Parameter(torch.full((classes,), gain))

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        return Heads([volume.mean(2) * self.weight[:, None, None]])


@pytest.fixture
def foreign(monkeypatch) -> str:
    """A module of another package, with one builder and its card."""
    module = types.ModuleType("other_models")
    card = ModelCard(name="one_weight", family="other", summary="one weight")

    def build_one_weight(*, depth: int, tile: int, classes: int = 1, gain: float = 2.0) -> InkModel:
        return OneWeight(card, depth=depth, tile=tile, classes=classes, gain=gain)

    module.__dict__.update(
        CARDS={"one_weight": card},
        build_one_weight=build_one_weight,
        build_nothing=lambda *, depth, tile, classes: None,
        build_uncarded=build_one_weight,
    )
    monkeypatch.setitem(sys.modules, "other_models", module)
    return "other_models:build_one_weight"


@pytest.fixture
def installed(foreign, monkeypatch):
    """The same, found through the entry points of an installed package, which also tries to take a name of ours."""
    points = [
        EntryPoint("one_weight", foreign, registry.ENTRY_POINT_GROUP),
        EntryPoint("repmode_tiny", foreign, registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    registry._foreign.cache_clear()
    yield "one_weight"
    monkeypatch.undo()
    registry._foreign.cache_clear()


def test_what_the_package_exports():
    for name in zoo.__all__:
        assert callable(getattr(zoo, name))


def test_a_model_is_made_by_its_name():
    model = create_model("repmode_tiny", depth=3, tile=32, classes=2, reduction="mean")
    assert (model.depth, model.tile, model.classes) == (3, 32, 2)
    assert model(torch.zeros(1, 1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_builders_are_importable_by_name():
    from zoo.models.repmode import build_repmode_tiny

    assert isinstance(build_repmode_tiny(depth=1, tile=32), InkModel)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'repmod_tiny'; the nearest are repmode_tiny"):
        create_model("repmod_tiny", depth=1, tile=32)
    with pytest.raises(ValueError, match="unknown model 'qqqq'; there are repmode_tiny"):
        model_card("qqqq")
    with pytest.raises(ValueError, match="the nearest are sam"):
        resolve_name("samm")


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(ValueError, match="repmode_tiny: unknown option 'widht'; its options are tasks, reduction"):
        create_model("repmode_tiny", depth=1, tile=32, widht=3)


def test_a_family_is_not_a_model_but_stands_for_one_on_the_command_line():
    with pytest.raises(ValueError, match="'repmode' is a family, not a model; choose one of repmode_tiny"):
        create_model("repmode", depth=1, tile=32)
    assert resolve_name("repmode", "cpu") == "repmode_tiny"
    assert resolve_name("repmode", "cuda:0") == "repmode_base"
    assert resolve_name("sam", torch.device("cuda")) == "sam_vit_b"  # type: ignore[arg-type]
    assert resolve_name("sam_tiny", "cuda") == "sam_tiny"


@pytest.mark.parametrize("family", list_families())
def test_every_family_has_its_models_and_both_defaults_among_them(family):
    names = list_models(family)
    assert {resolve_name(family, "cpu"), resolve_name(family, "cuda")} <= set(names) <= set(list_models())


def test_an_unknown_family_names_those_there_are():
    with pytest.raises(ValueError, match="unknown family 'repmod'; the nearest are repmode"):
        list_models("repmod")


def test_a_foreign_builder_works_unregistered(foreign):
    model = create_model(foreign, depth=2, tile=8, gain=3.0)
    assert model(torch.ones(1, 1, 2, 8, 8)).max() == 3
    assert model_card(foreign).name == "one_weight"
    assert resolve_name(foreign, "cuda") == foreign
    with pytest.raises(ValueError, match="unknown option 'gian'; its options are gain"):
        create_model(foreign, depth=2, tile=8, gian=3.0)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no_such_module:build", "cannot import no_such_module"),
        ("other_models:build_missing", "other_models has no builder called 'build_missing'"),
        ("other_models:", "not of the form package.module:builder"),
        ("other_models:build_nothing", "the builder returned NoneType, expected a zoo.models.base.InkModel"),
    ],
)
def test_a_foreign_builder_that_cannot_work_says_why(foreign, name, complaint):
    with pytest.raises(ValueError, match=complaint):
        create_model(name, depth=2, tile=8)


def test_a_foreign_model_without_a_card_says_so(foreign):
    with pytest.raises(ValueError, match="CARDS has no card 'uncarded'"):
        model_card("other_models:build_uncarded")


def test_another_package_adds_models_but_takes_no_name_of_ours(installed):
    assert list_models().count("repmode_tiny") == 1
    assert list_models()[-1] == installed
    assert list_models("other") == [installed]
    assert isinstance(create_model(installed, depth=2, tile=8), OneWeight)
    assert model_card("repmode_tiny").family == "repmode"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "zoo", *arguments], capture_output=True, text=True, timeout=120)


def test_list_prints_every_model_of_a_family_with_its_parameters():
    done = run("list", "--family", "repmode")
    assert done.returncode == 0, done.stderr
    assert "repmode_tiny" in done.stdout and "124 M" in done.stdout


def test_list_as_json_carries_the_whole_cards():
    done = run("list", "--family", "repmode", "--json")
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list_models("repmode")
    assert {"parameters", "depth", "tile", "multiple", "paper", "licence", "differs", "options"} <= set(rows[0])


def test_show_prints_the_whole_card_and_takes_a_family():
    done = run("show", "repmode")
    assert done.returncode == 0, done.stderr
    for expected in ("repmode_tiny", "CVPR 2023", "multiples of 16 from 32", "reduction", "patch convolution"):
        assert expected in done.stdout


def test_show_of_an_unknown_model_is_one_line_and_no_traceback():
    done = run("show", "repmodd")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown model 'repmodd'; the nearest are repmode")
    assert done.stderr.count("\n") == 1
