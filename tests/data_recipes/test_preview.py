"""`build` writes the table and says what fell short; `preview` draws it."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_recipes.build import build
from data_recipes.preview import COLOURS, _histogram, _reduced, preview
from data_recipes.recipe import load_recipe
from data_recipes.report import KindReport, PartReport, Report
from data_recipes.table import SampleTable


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two fragments of labels and masks alone, in the Kaggle layout."""
    root = tmp_path_factory.mktemp("labels")
    for name, shape in (("1", (300, 220)), ("5", (200, 260))):
        label = np.zeros(shape, np.uint8)
        cv2.line(label, (60, 60), (150, 140), 255, 40)
        mask = np.zeros(shape, np.uint8)
        mask[10:-10, 10:-10] = 255
        (root / name).mkdir()
        Image.fromarray(label).save(root / name / "inklabels.png")
        Image.fromarray(mask).save(root / name / "mask.png")
    return [str(root / "1"), str(root / "5")]


def quiet():
    return Console(file=io.StringIO(), width=100)


def test_build_writes_the_table_and_prints_every_bucket(data, tmp_path):
    console = quiet()
    out = tmp_path / "new" / "table.csv"
    table = build("edges_buckets_void", data, out, tile=32, samples=90, console=console)
    assert SampleTable.from_csv(out) == table
    assert len(table) == 90
    printed = console.file.getvalue()
    assert "≥0.9" in printed
    assert "every quota is met" in printed
    assert "no candidate" not in printed
    assert f"90 tiles written to {out}" in printed
    assert [path.name for path in out.parent.iterdir()] == ["table.csv"]


def test_buckets_that_no_window_falls_into_are_named_though_quotas_are_met():
    parts = [
        PartReport(name, name, (KindReport("edge", 9, 9, 20, available=available, taken=(9, 0, 0, 0)),))
        for name, available in (("a", (10, 9, 1, 0)), ("b", (10, 9, 0, 0)))
    ]
    console = quiet()
    console.print(Report(load_recipe("edges_buckets_void").model_copy(update={"buckets": 4}), tuple(parts)).table())
    printed = console.file.getvalue()
    assert "every quota is met" in printed
    assert "no candidate window has an ink ratio of 0.75–1" in printed


def test_build_says_why_a_quota_fell_short(data, tmp_path):
    console = quiet()
    build("edges_buckets_void", data[:1], tmp_path / "t.csv", console=console)
    printed = console.file.getvalue()
    assert "missing: too few windows by ink ratio (" in printed.replace("\n", " ")
    assert "fragment 4 is not among the data given" in printed


def test_build_is_the_same_twice_to_the_byte(data, tmp_path):
    for name in "ab":
        build("edges_buckets_void", data, tmp_path / name, tile=32, samples=60, seed=7, console=quiet())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("command", [build, preview])
def test_what_cannot_be_written_is_found_before_anything_is_read(command, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--out .* is a folder; name the file"):
        command("grid", ["no such data"], tmp_path)
    with pytest.raises(FileNotFoundError, match="no such data"):
        command("grid", ["no such data"], tmp_path / "t")
    with pytest.raises(ValueError, match="nearest is 'grid'"):
        command("gird", ["no such data"], tmp_path / "t")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ValueError, match="not writable"):
        command("grid", ["no such data"], tmp_path / "t")


def test_preview_draws_every_kind_over_the_label(data, tmp_path):
    out = preview("edges_buckets_void", data, tmp_path / "p.png", tile=32, samples=40, dpi=60)
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    for kind in ("edge", "void"):
        colour = np.array([int(COLOURS[kind][i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(picture - colour).max(-1) < 60).sum() > 50, kind
    assert (picture.max(-1) < 80).sum() > 200  # the ink is seen under the tiles


def test_preview_draws_a_table_that_was_built_before(data, tmp_path):
    build("grid", data[:1], tmp_path / "t.csv", tile=32, console=quiet())
    assert preview("grid", data[:1], tmp_path / "p.png", tile=32, table=tmp_path / "t.csv", dpi=30).is_file()
    with pytest.raises(ValueError, match="the table has tiles of '1', the data given are 5"):
        preview("grid", data[1:], tmp_path / "q.png", tile=32, table=tmp_path / "t.csv", dpi=30)


def test_a_huge_label_is_drawn_reduced():
    class Huge:
        shape = (1000, 300)
        label = np.zeros(shape, np.uint8)
        papyrus = supervised = np.ones(shape, bool)

    assert _reduced(Huge(), longest=100).shape == (100, 30, 3)
    assert _reduced(Huge(), longest=2000).shape == (1000, 300, 3)


def test_the_histogram_counts_every_tile_once():
    ratio = np.array([0, 0.05, 0.05, 0.999, 1.0])
    table = SampleTable.of("a", np.arange(5), np.arange(5), ratio, np.array([-1, -1, 0, 9, 9]), "edge")
    counts = _histogram(table, 10)
    assert counts.sum() == 5
    assert counts[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
