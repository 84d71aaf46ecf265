"""The page of a bench as text: what it holds, that it is one file, and that nothing said in it becomes markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_recipes.regions import Rect
from tests.zoo import page_example as example
from zoo.bench.leaderboard import Row
from zoo.bench.page import pictures
from zoo.bench.page.charts import thinned
from zoo.bench.page.content import columns, flat, headline
from zoo.bench.page.scale import Scale
from zoo.bench.shown import pareto
from zoo.card import ModelCard

HOSTILE = "<img src=x onerror=alert(1)>\"'></script><script>alert(2)</script>${alert(3)}{{7*7}}\u2028&amp;"


class Elements(HTMLParser):
    """Every element of a page with its attributes, the text of its scripts, and all other text."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.text += " "
        if tag in ("script", "style"):
            self.inside = tag
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> str:
    fragments = [example.fragment("one"), example.fragment("two", seed=1)]
    out = tmp_path_factory.mktemp("ordinary")
    results = example.bench(out, fragments, failed={"too_large": "needs 14 GiB, 12 are free"})
    return example.page(out, fragments, results)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that comes from outside is hostile: names of models, files, suite, hardware, and reasons."""
    of = example.fragment(HOSTILE.replace("/", "_"))
    out = tmp_path_factory.mktemp("hostile")
    models = {HOSTILE: (0.7, 100.0, 0.1), "zmean": (0.3, 50.0, 0.1)}
    results = example.bench(out, [of], models, failed={f"{HOSTILE} too": HOSTILE})
    results[0].environment["hardware"] = HOSTILE
    results[0].cost["precision"] = HOSTILE
    return example.page(out, [of], results, title=HOSTILE)


def test_a_page_is_one_file_that_asks_for_nothing(ordinary: str) -> None:
    page = Elements(ordinary)
    assert not page.of("link")[1:] and page.of("link")[0]["href"] == "data:,"
    assert all((image.get("src") or "data:image/").startswith("data:image/") for image in page.of("img"))
    assert not [s for s in page.of("script") if "src" in s]
    assert "@import" not in ordinary and "url(" not in ordinary
    outside = [a["href"] for a in page.of("a") if not str(a["href"]).startswith("#")]
    assert outside and all(str(href).startswith("https://") for href in outside), "only papers are linked"


def test_no_script_may_run_but_the_pages_own(ordinary: str) -> None:
    page = Elements(ordinary)
    (policy,) = [meta["content"] or "" for meta in page.of("meta") if meta.get("http-equiv")]
    early, _, script = page.scripts
    digests = [base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() for own in (early, script)]
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy and "default-src 'none'" in policy
    assert "innerHTML" not in early + script and "insertAdjacentHTML" not in early + script


def test_the_table_tells_ranks_ties_intervals_floors_and_failures(ordinary: str) -> None:
    text = " ".join(Elements(ordinary).text.split())
    assert "1= repmode_tiny" in text and "1= sam_tiny" in text
    assert "Floors: a claim must exceed them" in text
    assert "out of memory: needs 14 GiB, 12 are free" in text
    assert "repmode_tiny has Dice" in text and "sam_tiny cannot be told apart from it." in text
    assert text.index("Floors: a claim") < text.index("allink 0.2") < text.index("Not scored") < text.index("too_large")


def test_the_drawer_tells_card_controls_cost_and_every_fragment(ordinary: str) -> None:
    details = ordinary[ordinary.index('<dialog class="drawer" id="m0-details"') : ordinary.index('id="m1-details"')]
    text = " ".join(Elements(details).text.split())
    for words in ("RepMode: Learning to Re-parameterize", "licence", "native input", "differs from the paper"):
        assert words in text
    for words in ("zmean +0.", "null 97.5 %", "leak, px", "false ink", "0.420", "times scored", "without two 1"):
        assert words in text
    for words in ("seconds a training step 0.620 s, quartiles 0.558 to 0.744 over 10 repeats", "36,000 tiles 1.55 h"):
        assert words in text
    for words in ("FLOPs of a tile, forward 2.48 G", "predicting all of 8181 × 6330 px 0.186 h"):
        assert words in text
    assert "fits 12 GB" not in text, "it would be a guess from a CPU's memory"
    apart, runs = text.index("Cost, measured apart from the runs"), text.index("What the runs took")
    assert apart < text.index("tiles a second at inference 32.3 tiles/s") < runs < text.index("budget 300 steps")
    assert runs < text.index("a training step, with reading tiles 0.682 s")
    assert runs < text.index("peak memory of the training 224 MB (223 to 224)")
    for words in ("peak memory of training 223 MB", "lr 0.001", "loss.dice 1", "tile 32 px × 8 layers"):
        assert words in text


def test_a_batch_that_fits_is_told_of_gpus_alone(tmp_path: Path) -> None:
    of = example.fragment("one")
    (run,) = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1)}, seeds=1)
    on_gpu = run.model_copy(update={"spec": run.spec.model_copy(update={"device": "cuda:0"})})
    for result, batch in ((run, None), (on_gpu, 400)):
        (found,) = example.rows([result])
        assert found.batch_in_12_gb == batch
    text = " ".join(Elements(example.page(tmp_path, [of], [on_gpu])).text.split())
    assert "fits 12 GB 400" in text


def test_a_cost_that_was_not_measured_says_why_and_one_of_before_is_of_the_runs(tmp_path: Path) -> None:
    of = example.fragment("one")
    failed, before = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1), "n": (0.6, 100.0, 0.1)}, seeds=1)
    failed.cost = {key: failed.cost[key] for key in ("parameters", "budget", "run_step_seconds")}
    failed.notes = ["cost-training: not measured: killed by the system", "cost-inference: not measured: no room"]
    before.cost = {"parameters": 7, "step_seconds": 0.5}
    page = example.page(tmp_path, [of], [failed, before])
    first, second = (" ".join(Elements(part).text.split()) for part in page.split('<dialog class="drawer"')[1:])
    assert "cost of training not measured: killed by the system" in first
    assert "cost of inference not measured: no room" in first
    assert "seconds a training step 0.500 s" in second and "measured apart" not in second


def test_the_charts_draw_cost_that_was_measured(ordinary: str) -> None:
    data = json.loads(Elements(ordinary).scripts[1])
    assert {"train_36000_tiles_hours", "kaggle_fragment_hours", "tile_flops"} <= data["measures"]["time"].keys()
    assert "train_joules_per_1000_tiles" not in data["measures"]["time"], "no driver told the energy"
    points = {point["label"]: point for point in data["points"]}
    assert points["repmode_tiny"]["tile_flops"] == 2.48e9 and points["allink"]["tile_flops"] is None


def test_hostile_text_stays_text(hostile: str) -> None:
    page = Elements(hostile)
    assert len(page.of("script")) == 3
    assert not [attributes for _, attributes in page.found if any(name.startswith("on") for name in attributes)]
    assert not [image for image in page.of("img") if image.get("src") == "x"]
    assert page.text.count(HOSTILE) > 10
    assert "49" not in {part.strip() for part in page.text.split(HOSTILE[:10])}, "no template in the data is run"
    assert any(row.get("data-label") == HOSTILE for row in page.of("tr"))


def test_hostile_text_in_the_data_cannot_end_its_script(hostile: str) -> None:
    data = Elements(hostile).scripts[1]
    assert not {"<", ">", "&", "\u2028"} & set(data)
    assert json.loads(data)["points"][0]["label"] == HOSTILE


def test_a_card_links_to_a_web_address_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = example.fragment("one")
    results = example.bench(tmp_path, [of], {"mine": (0.7, 100.0, 0.1)}, seeds=1)
    card = ModelCard("mine", "mine", summary=HOSTILE, url="javascript:alert(1)", differs=(HOSTILE,))
    monkeypatch.setattr("zoo.bench.page.content.model_card", lambda name: card)
    page = Elements(example.page(tmp_path, [of], results))
    assert not [a for a in page.of("a") if "javascript" in str(a["href"])]
    assert "javascript:alert(1)" in page.text and page.text.count(HOSTILE) == 2


def test_a_model_without_a_card_still_has_a_page(tmp_path: Path) -> None:
    of = example.fragment("one")
    run = example.spec("foreign", of.name, of.shape, model="no_such_package:build_it")
    page = example.page(tmp_path, [of], [example.result(run, of, tmp_path, 0.6)])
    assert "is its package installed?" in Elements(page).text


def test_a_bench_in_which_all_failed_has_a_page_that_says_so(tmp_path: Path) -> None:
    of = example.fragment("one")
    results = example.bench(tmp_path, [of], {}, failed={"a": "no data", "b": ""})
    text = " ".join(Elements(example.page(tmp_path, [of], results)).text.split())
    assert "Nothing was scored" in text and "out of memory: no data" in text


def test_without_pictures_no_pixel_is_in_the_page(tmp_path: Path) -> None:
    of = example.fragment("one")
    results = example.bench(tmp_path, [of], seeds=1)
    assert "data:image/webp" in example.page(tmp_path, [of], results)
    page = example.page(tmp_path, [of], results, pictures=False)
    assert "data:image" not in page and "only numbers are published" in page


def test_maps_are_shown_where_the_fragment_is_not_at_hand(tmp_path: Path) -> None:
    of = example.fragment("one")
    results = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1)}, seeds=1)
    (region,) = pictures.regions(results, {}, tmp_path, example.rows(results))
    assert [picture.key for picture in region.pictures] == ["map m"]


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_reduced_and_transparent_where_nothing_counts(tmp_path: Path) -> None:
    of = example.fragment("wide", shape=(90, 1500))
    results = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1)}, seeds=1)
    (region,) = pictures.regions(results, {of.name: of}, tmp_path, example.rows(results))
    layer, label, drawn = (opened(picture.uri) for picture in region.pictures)
    assert layer.size == label.size == drawn.size == (region.width, region.height) == (500, 30)
    opaque = np.asarray(drawn.convert("RGBA"))[..., 3] > 0
    papyrus = np.asarray(of.papyrus).reshape(30, 3, 500, 3).mean((1, 3)) >= 0.5
    assert np.array_equal(opaque, papyrus)
    counted = np.asarray(label.convert("RGBA"))[..., 3] > 0
    assert not counted[:, :60].any(), "unsupervised columns are blank in the label"
    assert np.array_equal(counted[:, 63:], papyrus[:, 63:])
    ink = np.asarray(of.label).reshape(30, 3, 500, 3).mean((1, 3)) >= 0.5
    assert np.array_equal(np.asarray(label.convert("L"))[counted] == 255, ink[counted])


def test_a_label_that_counts_everywhere_is_one_bit_a_pixel() -> None:
    image = base64.b64decode(pictures._label(np.eye(64, dtype=bool), np.ones((64, 64), bool)).partition(",")[2])
    assert image[24] == 1  # the bit depth in PNG's header


def test_reduction_is_the_mean_of_blocks_in_bands_too(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).random((50, 33)).astype(np.float32)
    outline = Rect(3, 50, 2, 33)
    whole = pictures._reduced(lambda rect: image[rect.slices], outline, 4)
    assert whole.shape == (12, 8)
    assert whole[0, 0] == pytest.approx(image[3:7, 2:6].mean())
    assert whole[-1, -1] == pytest.approx(image[47:50, 30:33].mean())
    monkeypatch.setattr(pictures, "_BAND", 33 * 8)
    assert np.allclose(pictures._reduced(lambda rect: image[rect.slices], outline, 4), whole, atol=1e-6)


def test_many_pictures_are_smaller_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = example.fragment("one", shape=(400, 800))
    results = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1)}, seeds=1)
    monkeypatch.setattr(pictures, "FULL_SIZE", 1)
    (region,) = pictures.regions(results, {of.name: of}, tmp_path, example.rows(results))
    assert region.width <= pictures.SIDE / math.sqrt(3)


def test_a_curve_is_thinned_and_its_gaps_are_left_out(tmp_path: Path) -> None:
    curve = [(float(step), 2.0 if step % 2 else 1.0) for step in range(2000)]
    thin = thinned(curve)
    assert len(thin) == 300 and all(1.3 < loss < 1.7 for _, loss in thin)
    of = example.fragment("one")
    (result,) = example.bench(tmp_path, [of], {"m": (0.7, 100.0, 0.1)}, seeds=1)
    result.curve = [(1.0, 2.0), (2.0, math.nan), (3.0, math.inf), (4.0, 1.0)]
    data = json.loads(Elements(example.page(tmp_path, [of], [result])).scripts[1])
    assert data["curves"][0]["points"] == [[1.0, 2.0], [4.0, 1.0]]


def row(label: str, dice: float | None, megabytes: float | None = None, **more: Any) -> Row:
    return Row(label, label, "ok", dice=dice, train_mb=megabytes, **more)


def test_the_front_holds_what_nothing_cheaper_equals() -> None:
    rows = [row("best", 0.8, 400), row("equal, dearer", 0.8, 500), row("small", 0.6, 90), row("beaten", 0.5, 100)]
    rows += [
        row("floor", 0.55, 80, floor=True),
        row("under the floor", 0.5, 85),
        row("free", 0.9),
        row("none", None, 5),
        row("leaks", 0.99, 60, failures=["9 test pixels were seen in training"]),
        row("small, labels turned", 0.7, 70, control=True),
    ]
    assert [one.label for one in pareto(rows, lambda one: one.train_mb)] == ["small", "best"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a", 0.8, rank=1), row("b", 0.7, rank=2)], "a leads with Dice 0.800."),
        (
            [row("a", 0.8, rank=1), row("b", 0.7, rank=1), row("c", 0.7, rank=1)],
            "b and c cannot be told apart from it.",
        ),
        (
            [row("lean", 0.7, 90, rank=1), row("a", 0.8, 400, rank=1), row("c", 0.7, 200, rank=1)],
            "a has Dice 0.800; lean and c cannot be told apart from it; lean takes the least memory of them.",
        ),
        (
            [row(name, 0.8, rank=1) for name in "abcdefg"],
            "a has Dice 0.800; 6 others cannot be told apart from it.",
        ),
        (
            [row("a, best", 0.8, 90, rank=1), row("b", 0.7, 90, rank=1), row("c, old", 0.7, 80, rank=1)],
            "“a, best” has Dice 0.800; b and “c, old” cannot be told apart from it; “c, old” takes the least memory",
        ),
        ([row("a", 0.8), row("b", 0.7)], "No rank is given. a has the highest score, Dice 0.800."),
        (
            [row("a", 0.8, blocks=24)],
            "No rank is given: 24 of the 30 whole letter blocks with ink that a rank needs. a has the highest",
        ),
        ([row("a", 0.7, rank=1), row("b", 0.6, rank=2), row("lacks a seed", 0.8)], "a leads with Dice 0.700."),
        (
            [row("f", 0.8, floor=True), row("g", 0.9, floor=True), row("a", 0.8, rank=1)],
            "The floor g is not exceeded, Dice 0.900. a has Dice 0.800.",
        ),
        ([row("a", 0.8, rank=1), row("c", 0.9, control=True), row("b", 0.1, rank=2)], "a leads with Dice 0.800."),
        (
            [row("a", 0.8, rank=1, failures=["Dice not above layout"]), row("b", 0.7, rank=2)],
            "a leads with Dice 0.800. a fails a control: Dice not above layout.",
        ),
        ([row("a", 0.8, rank=1, failures=["x", "y", "z"])], "a has Dice 0.800. a fails a control: x; 2 more below."),
        ([row("a", 0.8, rank=1, unchecked=["no null"])], "a has Dice 0.800. Not checked of a: no null."),
        ([row("f", 0.8, floor=True), row("c", 0.9, control=True), row("a", None)], "No model was scored."),
        ([row("a", None)], "Nothing was scored"),
    ],
)
def test_the_leading_sentence_says_no_more_than_ranks_floors_and_controls(rows: list[Row], words: str) -> None:
    assert words in headline(rows)


def test_a_row_that_fails_is_marked_in_table_charts_and_pictures(tmp_path: Path) -> None:
    of = example.fragment("one")
    models = {"good": (0.7, 200.0, 0.2), "lays out": (0.31, 90.0, 0.1), "zmean": (0.3, 40.0, 0.05)}
    results = example.bench(tmp_path, [of], models, seeds=1)
    turned = example.spec("good, labels turned", of.name, of.shape, labels_turned=True)
    control = example.result(turned, of, tmp_path, 0.2)
    control.controls["null_high"] = 0.9
    page = Elements(example.page(tmp_path, [of], [*results, control]))
    text = " ".join(page.text.split())
    assert "2 ✗ lays out" in text and "failed: Dice not above zmean; AUC not above zmean" in text
    assert "1 good depthcnn_tiny" in text
    assert "lays out ✗" in text and "good ✗" not in text, "the title of its picture, and its curve"
    assert text.index("Floors: a claim") < text.index("Controls: trained") < text.index("control good, labels turned")
    data = json.loads(page.scripts[1])
    points = {point["label"]: point for point in data["points"]}
    assert points["lays out"]["verdict"] == "failed" and points["lays out"]["name"] == "lays out ✗"
    assert data["fronts"]["train_mb"] == [points["good"]["id"]]
    assert points["good, labels turned"]["control"]


def test_a_difference_to_the_leader_is_written_as_this_row_less_the_leader(ordinary: str) -> None:
    details = ordinary[ordinary.index('<dialog class="drawer" id="m1-details"') : ordinary.index('id="m2-details"')]
    text = " ".join(Elements(details).text.split())
    assert "sam_tiny" in text and "the leader −0.005 [−0.020, +0.010]" in text


def test_a_measure_that_the_page_does_not_know_is_a_column_too() -> None:
    rows = [row("a", 0.8, quality={"of_tomorrow": 0.7, "auc": 0.9, "ece": None})]
    keys = [column.key for column in columns(rows)]
    assert keys == ["auc", "of_tomorrow"]


def test_the_scale_has_round_ends_that_hold_every_interval() -> None:
    scale = Scale.of([row("a", 0.75, dice_low=0.733, dice_high=0.76), row("f", 0.28, dice_low=0.25, floor=True)])
    assert (scale.low, scale.high, scale.floor) == (pytest.approx(0.2), pytest.approx(0.8), 0.28)
    assert scale.ticks == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert scale.percent(0.5) == "50.00%"
    assert Scale.of([row("a", 0.0), row("b", 1.0)]).ticks[-1] == 1
    assert Scale.of([row("a", 0.5)]).low < Scale.of([row("a", 0.5)]).high


def test_nested_settings_are_a_line_each() -> None:
    nested = {
        "loss": {"bce": 1},
        "augment": None,
        "flip": True,
        "clip": [0, 255.0],
        "models": [{"name": "a"}],
        "no": [],
    }
    said = dict(flat(nested))
    assert said == {
        "loss.bce": "1",
        "augment": "none",
        "flip": "yes",
        "clip": "0, 255",
        "models.0.name": "a",
        "no": "none",
    }
