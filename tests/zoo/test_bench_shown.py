"""What a bench shows besides its page: the table of a terminal, what stands below it, and pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.console import Console

from tests.zoo import page_example as example
from tests.zoo.test_bench_parts import saved_results
from zoo.bench import figures, report, tables
from zoo.bench.leaderboard import Row, build_rows
from zoo.bench.page import pictures
from zoo.bench.page.pictures import regions
from zoo.bench.result import Result
from zoo.bench.suite import ModelEntry, Suite
from zoo.bench.tables import rich_table


def row(label: str, rank: int | None, **more: Any) -> Row:
    filled: dict[str, Any] = {"quality": {"auc": 0.973, "auc_rows": 0.971, "ap": 0.859, "f05": 0.7}}
    filled |= {"dice": 0.753, "dice_low": 0.737, "dice_high": 0.769, "train_mb": 12345.0}
    filled |= {"step_seconds": 0.619, "above_floors": {"zmean": {"lo": 0.429}}}
    return Row(label, label, "ok", rank=rank, **{**filled, **more})


ROWS = [
    row("unet3plus_enhanced_tiny", 1),
    row("repmode_tiny", 10, failures=["Dice not above layout"]),
    row("sam_vit_b", None, unchecked=["zmean failed"]),
    row("layout", None, floor=True),
    row("repmode_tiny, labels turned", None, control=True),
]


def written(rows: list[Row], width: int) -> list[str]:
    said = Console(file=io.StringIO(), width=width)
    said.print(rich_table(rows, "inkzoo", width))
    assert isinstance(said.file, io.StringIO)
    return said.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_cuts_no_cell(width: int) -> None:
    lines = written(ROWS, width)
    assert "…" not in "".join(lines) and max(map(len, lines)) <= width
    for one in ROWS:
        (line,) = [line for line in lines if f"  {one.label}  " in line and "0.753" in line]
        for cell in ("0.753 [0.737, 0.769]", "0.971", "12345"):
            assert cell in line
        assert ("0.859" in line) == (width == 120)


def test_the_rank_says_who_fails_and_below_stands_why() -> None:
    lines = [line.strip() for line in written(ROWS, 80)]
    starts = [line.split("  ")[0] for line in lines if "0.753" in line]
    assert starts == ["1", "10 ✗", "– ?", "floor", "control"]
    assert "repmode_tiny ✗: failed: Dice not above layout" in lines
    assert "sam_vit_b ?: not checked: zmean failed" in lines


def test_a_long_name_goes_on_in_a_second_line_and_numbers_stay_whole() -> None:
    long = "my_package.models.networks:build_the_large_network_of_mine"
    lines = written([row(long, 1)], 80)
    assert "…" not in "".join(lines) and any("0.753 [0.737, 0.769]" in line for line in lines)
    found = "".join(line.split("0.753")[0].strip().removeprefix("1").strip() for line in lines[-3:])
    assert long in found


def test_the_table_of_a_bench_without_memory_and_rows_has_no_empty_column() -> None:
    (head,) = [line for line in written([row("m", 1, train_mb=None, quality={"auc": 0.9})], 80) if "model" in line]
    assert head.split() == ["rank", "model", "Dice", "[95", "%]", "AUC"]


CLASSES = {f"dice_class_{index}": 0.5 + index / 100 for index in range(12)}


def test_a_suite_of_classes_has_their_accuracy_and_mean_dice_in_every_table() -> None:
    scores = {"auc": 0.973, "auc_rows": 0.971, "class_accuracy": 0.811, "mean_dice": 0.742, **CLASSES}
    rows = [row("m", 1, quality=scores), row("allink", None, floor=True)]
    wide, narrow = ("\n".join(written(rows, width)) for width in (140, 80))
    page = tables.markdown(rows, "t", [])
    assert "0.811" in wide and "0.811" in page and "0.742" in wide and "0.742" in page
    assert "0.742" in narrow and "…" not in narrow
    assert "| class accuracy | mean Dice |" in page
    head, first, *_ = csv.reader(tables.csv_text(rows).splitlines())
    assert [key for key in head if key.startswith("dice_class_")] == [*CLASSES]
    assert first[head.index("dice_class_11")] == "0.61"
    assert "mean Dice" not in tables.markdown(ROWS, "t", [])


def test_the_dice_of_each_class_reaches_the_row_however_many_there_are(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"m": 0.8}, blocks=60)
    results = [one.model_copy(update={"quality": {**one.quality, **CLASSES}}) for one in results]
    (found,) = build_rows(results, tmp_path, floors=[])
    assert {key: value for key, value in found.quality.items() if key in CLASSES} == pytest.approx(CLASSES)


def caption(results: list[Result], rows: list[Row] | None = None) -> list[str]:
    suite = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")])
    return report._caption(results, rows or [row("m", 1)], suite, [])


def result(fold: str, name: str, ink: float, agreement: float | None, rect: tuple[int, int, int, int]) -> Result:
    run = example.spec("m", name, (8, 8), fold=fold, test_rects={name: [rect]})
    controls = {"label_agreement": None if agreement is None else {"dice": agreement, "pixels": 9}}
    return Result(run_id=run.run_id, status="ok", spec=run, quality={"prevalence": ink}, controls=controls)


def test_what_folds_test_is_told_of_all_of_them() -> None:
    first, second = (0, 8, 0, 8), (8, 16, 0, 8)
    lines = caption([result("0", "a", 0.2, 0.9, first), result("1", "b", 0.1, None, first)])
    assert "test: a, b" in lines
    assert "ink: 20.0 % (fold 0); 10.0 % (fold 1) of the pixels that count" in lines
    assert "ceiling: the two labels of what is tested agree to Dice 0.900 (fold 0); a higher score" in "\n".join(lines)
    lines = caption([result("0", "a", 0.2, 0.9, first), result("1", "a", 0.2, 0.9, second)])
    assert "test: a (another part in each of 2 folds)" in lines
    assert "ink: 20.0 % of the pixels that count" in lines and "to Dice 0.900; a higher" in "\n".join(lines)


def test_turned_labels_say_nothing_of_what_is_tested() -> None:
    own = result("0", "a", 0.2, 0.9, (0, 8, 0, 8))
    turned = own.model_copy(
        update={"spec": own.spec.model_copy(update={"labels_turned": True}), "quality": {"prevalence": 0.3}}
    )
    assert "ink: 20.0 % of the pixels that count" in caption([turned, own])


def test_where_no_rank_is_given_the_caption_says_why() -> None:
    results = [result("0", "a", 0.2, None, (0, 8, 0, 8))]
    few = "no rank: there are 24 of the 30 whole letter blocks with ink that a rank needs"
    assert few in caption(results, [row("m", None, blocks=24)])
    lines = caption(results, [row("m", 1, blocks=30)])
    assert not [line for line in lines if line.startswith("no rank:")]
    assert "blocks: the ranks rest on 30 whole ones of 256 px that hold ink" in lines


def test_one_run_each_says_what_it_takes_seeds_to_scatter() -> None:
    one = result("0", "a", 0.2, None, (0, 8, 0, 8))
    other_seed = one.model_copy(update={"spec": one.spec.model_copy(update={"seed": one.spec.seed + 1})})
    told = [[line for line in caption(runs) if line.startswith("one ")] for runs in ([one], [one, other_seed])]
    assert told[0][0].startswith("one run each: seeds are taken to scatter by 0.02") and not told[1]


def test_the_caption_names_whom_the_rest_of_rank_1_cannot_be_told_from() -> None:
    results = [result("0", "a", 0.2, None, (0, 8, 0, 8))]
    lean, best, last = (
        row(label, rank, dice=dice) for label, rank, dice in (("x", 1, 0.7), ("y", 1, 0.8), ("z", 2, 0.5))
    )
    assert "leader: y" in caption(results, [lean, best, last])
    assert not [line for line in caption(results, [best, last]) if line.startswith("leader")]


def test_the_title_names_the_data_without_their_pictures_too(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"m": 0.8}, blocks=60)
    bench = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")])
    report.report(results, {}, bench, tmp_path, Console(file=io.StringIO()), own_data=True, pictures=False)
    assert (tmp_path / "leaderboard.md").read_text().startswith("# inkzoo, suite s on a\n")


def test_what_ran_stands_in_the_json_by_name(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"m": 0.8, "zmean": 0.3}, blocks=60, folds=2)
    suite = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")], seeds=[7], floors=["zmean", "zmax"])
    report.report(results, {}, suite, tmp_path, Console(file=io.StringIO()), pictures=False)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (board["seeds"], board["floors"]) == ([0, 1, 2], ["zmean"])
    assert board["folds"] == sorted({one.spec.fold for one in results})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been written."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: found.append(figure))
    return found


def test_a_row_that_fails_is_hollow_and_off_the_front(drawn: list[Figure], tmp_path: Path) -> None:
    rows = [
        row("good", 1, train_mb=200.0),
        row("leaks", 1, dice=0.9, dice_high=0.91, train_mb=50.0, failures=["9 test pixels were seen in training"]),
        row("good, labels turned", None, train_mb=40.0, control=True),
    ]
    assert figures.quality_against_memory(rows, tmp_path / "q.png", "t")
    (axes,) = drawn[0].axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    inside = {float(dot.get_ydata()[0]): dot.get_markerfacecolor() for dot in dots}  # pyright: ignore
    assert inside == {0.753: "tab:orange", 0.9: "white"}
    assert [to_hex(str(dot.get_color())) for dot in dots] == [to_hex("tab:orange"), to_hex("tab:blue")]
    assert [text.get_text() for text in axes.texts] == ["good", "leaks ✗"]
    assert "hollow, ✗: fails a control" in axes.get_title(loc="left")


def test_the_picture_of_a_map_says_that_its_row_fails(drawn: list[Figure], tmp_path: Path) -> None:
    of = example.fragment("one")
    results = example.bench(tmp_path, [of], {"lays out": (0.31, 90.0, 0.1), "zmean": (0.3, 40.0, 0.05)}, seeds=1)
    shown = regions(results, {"one": of}, tmp_path, example.rows(results))
    assert [path.name for path in figures.panels(shown, tmp_path)] == ["panel_without-one_one.png"]
    titles = [axes.get_title().split("\n")[0] for axes in drawn[0].axes]
    assert titles == ["CT layer 1", "label", "lays out ✗", "zmean"]


def test_a_panel_shows_the_pages_own_pictures_and_reads_no_whole_fragment(
    drawn: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = example.fragment("one", shape=(400, 500))
    results = example.bench(tmp_path, [of], {"m": (0.9, 90.0, 0.1)}, seeds=1)
    monkeypatch.setattr(pictures, "_BAND", 500 * 40)
    largest, read = [0], of.read

    def watched(y0: int, y1: int, x0: int, x1: int, z0: int, z1: int) -> Any:
        largest[0] = max(largest[0], (y1 - y0) * (x1 - x0))
        return read(y0, y1, x0, x1, z0, z1)

    cast(Any, of).read = watched
    shown = regions(results, {"one": of}, tmp_path, example.rows(results))
    figures.panels(shown, tmp_path)
    assert 0 < largest[0] <= 500 * 40
    label, drawn_map = (np.ma.asarray(axes.images[0].get_array()) for axes in drawn[0].axes[1:])
    papyrus, supervised, ink = (np.asarray(plane) for plane in (of.papyrus, of.supervised, of.label))
    assert np.array_equal(np.ma.getmaskarray(drawn_map), ~papyrus)
    assert np.array_equal(np.ma.getmaskarray(label), ~(papyrus & supervised))
    assert np.array_equal(np.ma.getdata(label) == 255, (ink > 0) & supervised)
    assert drawn[0].axes[2].images[0].get_cmap().name == "magma"


def test_numbers_alone_leave_no_picture_of_an_earlier_report(tmp_path: Path) -> None:
    of = example.fragment("one")
    results = saved_results(tmp_path, {"m": 0.8}, blocks=60)
    for name in ("panel_0_a.png", "quality_memory.png", "mine.png"):
        (tmp_path / name).write_bytes(b"pixels")
    suite = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")])
    report.report(results, {"a": of}, suite, tmp_path, Console(file=io.StringIO()), pictures=False)
    assert [path.name for path in tmp_path.glob("*.png")] == ["mine.png"]


@pytest.mark.parametrize(
    ("train", "remarks"),
    [
        ({"steps": 5, "loss": {"bce": 1}}, []),
        ({"steps": 5, "loss": "bce"}, []),
        ({"steps": 9, "loss": "bce"}, ["budget 9 steps of 24 tiles, the suite's is 5 steps of 24 tiles"]),
        ({"minutes": 2, "loss": "bce"}, ["budget 2 minutes, the suite's is 5 steps of 24 tiles"]),
        ({"steps": 5, "loss": {"dice": 2, "bce": 0.5}}, ["loss 2·dice + 0.5·bce, the suite's is 1·bce"]),
    ],
)
def test_a_row_with_another_loss_or_budget_than_the_suites_says_so(
    tmp_path: Path, train: dict[str, Any], remarks: list[str]
) -> None:
    results = saved_results(tmp_path, {"m": 0.8}, blocks=60)
    results = [one.model_copy(update={"spec": one.spec.model_copy(update={"train": train})}) for one in results]
    suite = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")], train={"steps": 5, "loss": {"bce": 1}})
    (row,) = report.report(results, {}, suite, tmp_path, Console(file=io.StringIO()), pictures=False)
    assert row.warnings == remarks


@pytest.mark.parametrize(("measured", "remarks"), [(0.9, 1), (0.7, 0), (0.2, 0)])
def test_a_cost_that_was_measured_beside_other_work_says_so(tmp_path: Path, measured: float, remarks: int) -> None:
    took = {"step_seconds": measured, "run_step_seconds": 0.5}
    results = [one.model_copy(update={"cost": took}) for one in saved_results(tmp_path, {"m": 0.8}, blocks=60)]
    (row,) = build_rows(results, tmp_path, floors=[])
    assert ["0.9 s a step, 0.5 s in training" in remark for remark in row.warnings] == [True] * remarks


def of_turned(results: list[Result], label: str) -> list[Result]:
    """The same runs with one more on turned labels of the row `label`."""
    first = next(one for one in results if one.spec.label == label)
    spec = first.spec.model_copy(update={"label": f"{label}, labels turned", "labels_turned": True})
    return [*results, first.model_copy(update={"spec": spec})]


def controlled(results: list[Result]) -> list[Result]:
    """Runs above their nulls."""
    null = {"null_auc": 0.9, "null_high": 0.6}
    return [one.model_copy(update={"controls": null, "quality": {**one.quality, "auc_blocks": 0.9}}) for one in results]


def test_controls_that_a_bench_did_not_run_are_said_once_and_mark_no_row(tmp_path: Path) -> None:
    suite = Suite(name="s", about="a", models=[ModelEntry(name="depthcnn")], floors=[])
    results = controlled(saved_results(tmp_path, {"m": 0.8, "n": 0.7}, blocks=60))
    said = io.StringIO()
    rows = report.report(results, {}, suite, tmp_path, Console(file=said, width=200), pictures=False)
    assert [(one.not_run, one.unchecked, one.verdict) for one in rows] == [
        (["labels turned", "floors"], [], "passed those run")
    ] * 2
    line = "controls not run: labels turned, floors; a row that passed those run may yet fail there"
    for text in (
        said.getvalue(),
        (tmp_path / "leaderboard.md").read_text(),
        (tmp_path / "leaderboard.json").read_text(),
    ):
        assert text.count(line) == 1
        assert "n ?" not in text
    assert "passed those run" in (tmp_path / "leaderboard.md").read_text()
    assert "controls not run" in (tmp_path / "leaderboard.html").read_text()


def test_a_row_without_the_turned_labels_that_others_had_is_not_checked(tmp_path: Path) -> None:
    results = controlled(saved_results(tmp_path, {"m": 0.8, "n": 0.7, "floor": 0.2}, blocks=60))
    rows = {row.label: row for row in build_rows(of_turned(results, "m"), tmp_path, floors=["floor"])}
    assert "labels turned: not run" in rows["n"].unchecked and rows["n"].not_run == []
    assert "labels turned" not in str(rows["m"].unchecked)
    assert rows["floor"].unchecked == rows["floor"].not_run == []
