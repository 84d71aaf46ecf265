"""The training command says what it does and with which settings, and refuses in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from data_recipes.cli import run_cli
from data_recipes.fragment import open_fragments
from data_recipes.regions import Rect
from data_recipes.split import Fold
from data_recipes.tiles import fit_contract
from zoo.checkpoint import load_checkpoint, read_info
from zoo.configs import config_path, list_configs
from zoo.models.repmode import RepMode
from zoo.predict.tiles import predict_region
from zoo.registry import model_card, resolve_name
from zoo.train.__main__ import TrainOptions
from zoo.train.command import _validation, train_command
from zoo.train.config import load_train_config
from zoo.train.given import given_weights, read_pairs, read_tasks, settings_file, with_tasks


def write_fragment(folder: Path, *, label: bool = True, facts: str = "") -> Path:
    (folder / "layers").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ink = np.kron(rng.random((4, 4)) < 0.5, np.ones((32, 32))).astype(np.uint8)
    for number in range(4):
        layer = rng.normal(90 + 80 * ink * (number < 2), 12).clip(0, 255).astype(np.uint8)
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", layer)
    if label:
        tifffile.imwrite(folder / f"{folder.name}_inklabels.tif", ink * 255)
    if facts:
        (folder / "fragment.yaml").write_text(facts)
    return folder


def options(*data: Path, out: Path, **others) -> TrainOptions:
    given = {"model": "depthcnn", "steps": 1, "batch_size": 2, "tile": 32, "loss": "bce", "recipe": "grid"}
    return TrainOptions(data=tuple(map(str, data)), out=out, **{**given, **others})


def test_the_familys_settings_are_the_default_and_are_named(tmp_path: Path, capsys, monkeypatch) -> None:
    write_fragment(tmp_path / "scrap")
    monkeypatch.chdir(tmp_path)
    assert train_command(options(Path("scrap"), out=tmp_path / "out")) == 0
    told, checkpoint = capsys.readouterr().err, tmp_path / "out" / "last.safetensors"
    assert f"settings: {config_path('train', 'depthcnn')}, and the command line\n" in told
    config = read_info(checkpoint)["config"]
    assert (config["train"]["lr"], config["train"]["warmup"], config["train"]["steps"]) == (1.5e-3, 0.3, 1)
    assert config["data"] == [str(tmp_path / "scrap")]
    for unknown in ("voxel size", "direction", "cent"):
        assert any(line.startswith("scrap: ") and unknown in line for line in told.splitlines()), told


def test_a_file_of_settings_lies_over_the_familys_and_a_shipped_name_takes_its_place(tmp_path: Path, capsys) -> None:
    scrap, mine = write_fragment(tmp_path / "scrap"), tmp_path / "mine.yaml"
    mine.write_text("minutes: 60\nclip_norm: null\nwarmup: 0.2\n")
    assert train_command(options(scrap, out=tmp_path / "out", config=str(mine))) == 0
    family = config_path("train", "depthcnn")
    assert f"settings: {family}, over it {mine}, and the command line\n" in capsys.readouterr().err
    config = read_info(tmp_path / "out" / "last.safetensors")["config"]["train"]
    assert (config["lr"], config["warmup"], config["clip_norm"]) == (1.5e-3, 0.2, None)
    assert (config["steps"], config["minutes"]) == (1, None)
    assert train_command(options(scrap, out=tmp_path / "named", config="elunet")) == 0
    assert f"settings: {config_path('train', 'elunet')}, and the command line\n" in capsys.readouterr().err
    assert read_info(tmp_path / "named" / "last.safetensors")["config"]["train"]["lr"] == 2e-3


def refused(given: TrainOptions, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: train_command(given))
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_one_budget_may_be_given_in_tiles_seen_or_flops_too(tmp_path: Path, capsys) -> None:
    scrap = write_fragment(tmp_path / "scrap")
    told = refused(options(scrap, out=tmp_path / "out", tiles_seen=3), capsys)
    assert "steps=1" in told
    assert "tiles_seen=3" in told
    assert train_command(options(scrap, out=tmp_path / "out", steps=None, tiles_seen=3)) == 0
    info = read_info(tmp_path / "out" / "last.safetensors")
    assert info["config"]["train"]["tiles_seen"] == 3
    assert "2 steps" in capsys.readouterr().err  # of two tiles


def test_what_cannot_be_trained_on_or_written_to_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    scrap, out = write_fragment(tmp_path / "scrap"), tmp_path / "out"
    (tmp_path / "broken.yaml").write_text("lr: [1\nloss: }")
    assert "broken.yaml: not readable as YAML" in refused(
        options(scrap, out=out, config=str(tmp_path / "broken.yaml")), capsys
    )
    (tmp_path / "file").touch()
    assert "file is a file; give a folder" in refused(options(scrap, out=tmp_path / "file"), capsys)
    exact = write_fragment(tmp_path / "exact", facts="purpose: test\n")
    assert "exact is a test phantom" in refused(options(scrap, exact, out=out), capsys)
    bare = write_fragment(tmp_path / "bare", label=False)
    assert "none of bare has an ink label" in refused(options(bare, out=out), capsys)
    assert "--fold 7 is not there; these are: 0 scrap" in refused(options(scrap, out=out, fold=7, buffer=8), capsys)


def test_going_on_and_starting_anew_are_not_asked_for_together(tmp_path: Path, capsys) -> None:
    both = options(write_fragment(tmp_path / "scrap"), out=tmp_path / "out", resume=True, overwrite=True)
    assert "--resume goes on with the run that is there, --overwrite starts anew; give one" in refused(both, capsys)


def test_validation_tiles_lie_side_by_side(tmp_path: Path) -> None:
    fragments = open_fragments([write_fragment(tmp_path / "scrap")])
    region = {"scrap": (Rect(0, 128, 0, 80),)}
    contract = fit_contract(fragments, region, depth=4, tile=32)
    fold = Fold("left", train={}, calibration=region, test={}, buffer=0)
    table = _validation(fragments, fold, contract, None).table
    assert sorted(zip(table.y.tolist(), table.x.tolist(), strict=True)) == [
        (y, x) for y in (0, 32, 64, 96) for x in (0, 32, 48)
    ]


def test_a_run_that_would_clear_what_it_starts_from_is_refused(tmp_path: Path, capsys) -> None:
    scrap, out = write_fragment(tmp_path / "scrap"), tmp_path / "out"
    assert train_command(options(scrap, out=out)) == 0
    again = options(scrap, out=out, overwrite=True, start_from=out / "last.safetensors")
    assert "last.safetensors lies in --out, which --overwrite clears; give another --out" in refused(again, capsys)
    assert (out / "last.safetensors").exists()


def test_fragments_without_a_label_are_left_out_and_named(tmp_path: Path, capsys) -> None:
    scrap, bare = write_fragment(tmp_path / "scrap"), write_fragment(tmp_path / "bare", label=False)
    assert train_command(options(scrap, bare, out=tmp_path / "out")) == 0
    assert "bare: no ink label, so it takes no part" in capsys.readouterr().err


def test_a_models_options_and_classes_reach_it(tmp_path: Path, capsys) -> None:
    scrap, out, more = write_fragment(tmp_path / "scrap"), tmp_path / "out", tmp_path / "more.yaml"
    more.write_text("width: 8\n")
    assert train_command(options(scrap, out=out, classes=2, options=(str(more), "width=4"))) == 0
    loaded = load_checkpoint(out / "last.safetensors")
    assert loaded.options == {"width": 4}
    assert loaded.model.classes == 2
    wrong = options(scrap, out=tmp_path / "no", options=("widht=4",))
    assert "unknown option 'widht'; its options are " in refused(wrong, capsys)
    for words, told in {("width",): "got 'width'; give key=value", ("width=[4",): "'width=[4' is not YAML"}.items():
        assert f"--options: {told}" in refused(options(scrap, out=tmp_path / "no", options=words), capsys)
    assert "no.yaml: no such file" in refused(options(scrap, out=tmp_path / "no", options=("no.yaml",)), capsys)


def test_values_are_read_as_yaml(tmp_path: Path) -> None:
    words = ("tuning=lora", "multimask=true", "lora_blocks=[0, 2]", "drop_path=6e-1", "checkpoint=null", "a=b=c")
    assert read_pairs(words, "--options") == {
        "tuning": "lora",
        "multimask": True,
        "lora_blocks": [0, 2],
        "drop_path": 0.6,
        "checkpoint": None,
        "a": "b=c",
    }
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match=r"list.yaml: expected lines of `key: value`"):
        read_pairs([str(tmp_path / "list.yaml")], "--options")
    with pytest.raises(ValueError, match=r"is not YAML"):  # nothing is ever run
        read_pairs(["a=!!python/object/apply:os.getcwd []"], "--options")


def test_what_is_frozen_and_where_weights_come_from_is_told(tmp_path: Path, capsys, monkeypatch) -> None:
    scrap, out = write_fragment(tmp_path / "scrap"), tmp_path / "out"
    assert train_command(options(scrap, out=out)) == 0
    assert " parameters, starts from random weights, 4 layers of 32 px, on cpu\n" in capsys.readouterr().err
    assert given_weights({"pretrained": True, "tuning": "lora"}, ("checkpoint", "pretrained")) == "pretrained=True"
    assert given_weights({"pretrained": False, "checkpoint": None}, ("checkpoint", "pretrained")) == ""


def test_a_models_own_settings_are_for_weights_that_it_is_given() -> None:
    own, family = (settings_file("sam_vit_b", "sam", pretrained=given) for given in (True, False))
    assert (own, family) == (config_path("train", "sam_vit_b"), config_path("train", "sam"))
    config = load_train_config(own)
    assert (config.lr, config.layer_decay, config.weight_decay, config.warmup) == (8e-4, 0.6, 0.1, 0.25)
    assert settings_file("sam_tiny", "sam", pretrained=True) == family
    assert settings_file("mine:build", "mine", pretrained=True) is None


@pytest.mark.parametrize("name", list_configs("train"))
def test_shipped_settings_begin_with_a_command_that_takes_them(name: str) -> None:
    path = config_path("train", name)
    begins = "# Command: python -m zoo.train "
    first = path.read_text().splitlines()[0]
    assert first.startswith(begins)
    model, *words = first.removeprefix(begins).split()
    chosen = resolve_name(model, "cpu")
    card = model_card(chosen)
    given = read_pairs([word for word in words if "=" in word], "--options")
    assert settings_file(chosen, card.family, pretrained=bool(given_weights(given, card.init_options))) == path


def test_each_fragment_may_be_a_task_and_batches_mix_them(tmp_path: Path, capsys, monkeypatch) -> None:
    data, out = [write_fragment(tmp_path / name) for name in ("one", "two", "three")], tmp_path / "out"
    given = {"model": "repmode_tiny", "batch_size": 6, "fold": 0, "buffer": 32, "steps": 2}
    passed: list[set[int]] = []
    heads = RepMode.heads

    def watched(self: RepMode, volume: torch.Tensor, task: torch.Tensor | None = None):
        assert task is not None and task.dtype == torch.int64 and task.shape == volume.shape[:1]
        passed.append(set(task.tolist()))
        return heads(self, volume, task)

    monkeypatch.setattr(RepMode, "heads", watched)
    settings = tmp_path / "settings.yaml"
    settings.write_text("validate_every: 2\n")
    assert train_command(options(*data, out=out, tasks=("fragment",), config=str(settings), **given)) == 0
    told = capsys.readouterr().err
    assert "tasks: 0 two, 1 three; one has none: to predict it, name the task that it comes nearest to\n" in told
    assert "step 2: AP " in told
    assert "best on the tiles left out: AP " in told
    assert str(out / "best.safetensors") in told
    assert passed[:2] == [{0, 1}, {0, 1}]
    assert set().union(*passed[2:]) == {0, 1}, "validation tells the tasks too"
    monkeypatch.undo()
    loaded = load_checkpoint(out / "last.safetensors")
    assert loaded.config["tasks"] == {"two": 0, "three": 1}
    assert loaded.options["tasks"] == 2
    rect, fragment = Rect(0, 64, 0, 64), open_fragments(data)["one"]
    first, second = (
        predict_region(loaded.model, fragment, rect, loaded.contract, precision="fp32", task=task) for task in (0, 1)
    )
    assert first.shape == (64, 64) and not np.array_equal(first, second)
    with pytest.raises(ValueError, match="built for 2 tasks"):
        predict_region(loaded.model, fragment, rect, loaded.contract)


def test_tasks_may_be_given_by_name(tmp_path: Path, capsys) -> None:
    assert read_tasks((), ["a"], ["a"]) is None
    assert read_tasks(("a=1", "b=0", "c=1"), ["a", "b"], ["a", "b", "c"]) == {"a": 1, "b": 0, "c": 1}
    (tmp_path / "scans.yaml").write_text("1: 0\n2: 1\n")
    assert read_tasks((str(tmp_path / "scans.yaml"),), ["1", "2"], ["1", "2"]) == {"1": 0, "2": 1}
    for words, told in {
        ("a=0",): "--tasks says nothing of b",
        ("a=0", "b=0", "cc=1"): "there is no fragment 'cc'; the nearest: c",
        ("a=-1", "b=0"): "a=-1: a task is a whole number",
        ("a=true", "b=0"): "a=True: a task is a whole number",
    }.items():
        with pytest.raises(ValueError, match=told):
            read_tasks(words, ["a", "b"], ["a", "b", "c"])
    assert with_tasks({"width": 4}, None) == {"width": 4}
    assert with_tasks({}, {"a": 2}) == with_tasks({"tasks": 3}, {"a": 0}) == {"tasks": 3}
    with pytest.raises(ValueError, match=r"tasks=1: --tasks needs 3"):
        with_tasks({"tasks": 1}, {"a": 2})
    unable = options(write_fragment(tmp_path / "scrap"), out=tmp_path / "out", tasks=("fragment",))
    assert "depthcnn_tiny: unknown option 'tasks'" in refused(unable, capsys)


@pytest.mark.parametrize(
    ("option", "words"), [("depth", "depth 0 is not possible"), ("tile", "tile 0 px is not possible")]
)
def test_a_depth_or_tile_of_zero_is_refused_not_replaced(tmp_path: Path, capsys, option: str, words: str) -> None:
    scrap = write_fragment(tmp_path / "scrap")
    assert words in refused(options(scrap, out=tmp_path / "out", **{option: 0}), capsys)
