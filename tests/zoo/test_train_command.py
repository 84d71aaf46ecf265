"""The training command says what it does and with which settings, and refuses in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from data_recipes.cli import run_cli
from zoo.checkpoint import read_info
from zoo.configs import config_path
from zoo.train.__main__ import TrainOptions
from zoo.train.command import train_command


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


def test_a_file_of_settings_takes_the_place_of_the_familys(tmp_path: Path, capsys) -> None:
    scrap, mine = write_fragment(tmp_path / "scrap"), tmp_path / "mine.yaml"
    mine.write_text("minutes: 60\nclip_norm: null\n")
    assert train_command(options(scrap, out=tmp_path / "out", config=str(mine))) == 0
    assert f"settings: {mine}, and the command line" in capsys.readouterr().err
    config = read_info(tmp_path / "out" / "last.safetensors")["config"]["train"]
    assert (config["lr"], config["steps"], config["minutes"], config["clip_norm"]) == (1e-3, 1, None, None)


def refused(given: TrainOptions, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: train_command(given))
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


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


def test_fragments_without_a_label_are_left_out_and_named(tmp_path: Path, capsys) -> None:
    scrap, bare = write_fragment(tmp_path / "scrap"), write_fragment(tmp_path / "bare", label=False)
    assert train_command(options(scrap, bare, out=tmp_path / "out")) == 0
    assert "bare: no ink label, so it takes no part" in capsys.readouterr().err
