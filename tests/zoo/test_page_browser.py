"""The page of a bench in a real browser: what a person does with it, by mouse, by key, on a phone and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.zoo import page_example as example

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup installs it")
expect = playwright.expect
PATIENCE = 60_000  # ms; for a loaded machine, where nothing is waited for that does not come
expect.set_options(timeout=PATIENCE)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
HOSTILE = "<img src=x onerror=window.ran=1>\"><script>window.ran=2</script>${window.ran=3}'`\u2028 & $&"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}; on Debian: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ordinary")
    fragments = [example.fragment("one", shape=(240, 320)), example.fragment("two", shape=(240, 320), seed=1)]
    example.page(out, fragments, example.bench(out, fragments, failed={"too large": "needs 14 GiB, 12 are free"}))
    return out / "leaderboard.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile")
    of = example.fragment(HOSTILE.replace("/", "_"))
    models = {HOSTILE: (0.7, 100.0, 0.1), f"{HOSTILE} two": (0.6, 50.0, 0.2), "zmean": (0.3, 40.0, 0.05)}
    example.page(out, [of], example.bench(out, [of], models, failed={"broken": HOSTILE}), title=HOSTILE)
    return out / "leaderboard.html"


@dataclass
class Visit:
    """An open page, and what went wrong on it or was asked of the network."""

    page: Any
    file: Path
    faults: list[str] = field(default_factory=list)

    def go(self, view: str = "") -> Any:
        self.page.goto("about:blank")
        self.page.goto(f"{self.file.as_uri()}{view}")
        return self.page

    def address(self, part: str) -> None:
        """Wait until the address holds a part of the view."""
        self.page.wait_for_function("part => decodeURIComponent(location.hash).includes(part)", arg=part)


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    contexts, visits = [], []

    def start(file: Path, view: str = "", **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        opened = Visit(context.new_page(), file)
        visits.append(opened)
        opened.page.on("console", lambda message: opened.faults.append(message.text))
        opened.page.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.page.on("dialog", lambda dialog: (opened.faults.append(dialog.message), dialog.dismiss()))
        opened.page.on("request", lambda asked: opened.faults.append(asked.url) if web(asked.url) else None)
        opened.go(view)
        return opened

    yield start
    for context in contexts:
        context.close()
    assert not [fault for one in visits for fault in one.faults], "no message, no error, no request"


def web(url: str) -> bool:
    return not url.startswith(("file:", "data:", "about:"))


def labels(page: Any, part: str = "models") -> list[str]:
    return page.locator(f'tbody[data-part="{part}"] tr.entry:visible .open').all_text_contents()


def shape(page: Any, selector: str) -> dict[str, float]:
    box = page.locator(selector).first.bounding_box()
    assert box
    return box


def test_a_column_sorts_both_ways_by_mouse_and_key(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary).page
    ranked = labels(page)
    assert ranked[0] == "repmode_tiny"
    head = page.locator('th[data-key="train_mb"]')
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert labels(page)[0] == "depthcnn_tiny" and labels(page)[-1] == "unet3plus_tiny"
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert labels(page)[0] == "unet3plus_tiny"
    assert labels(page, "floors") == ["zmean", "allink"], "what has no number is last, whichever way"
    page.locator('th[data-key="rank"]').get_by_role("button").click()
    assert labels(page) == ranked


def test_the_filter_finds_names_and_remarks_and_says_how_many(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary).page
    page.get_by_label("Filter").fill("tiny SAM")
    expect(page.locator("#count")).to_have_text("1 of 9 rows")
    assert labels(page) == ["sam_tiny"]
    expect(page.locator('tbody[data-part="floors"]')).to_be_hidden()
    page.get_by_label("Filter").fill("14 gib")
    assert labels(page, "failed") == ["too large"]
    page.get_by_label("Filter").fill("no such row")
    expect(page.locator("#nothing")).to_be_visible()
    page.get_by_label("Filter").fill("")
    page.get_by_label("floors, controls", exact=True).uncheck()
    expect(page.locator("#count")).to_have_text("7 of 9 rows")
    assert not labels(page, "floors")


def test_columns_are_chosen_by_what_one_asks(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary).page
    expect(page.locator('th[data-key="iou"]')).to_be_hidden()
    page.get_by_role("radio", name="Quality").check()
    expect(page.locator('th[data-key="iou"]')).to_be_visible()
    expect(page.locator('th[data-key="train_mb"]')).to_be_hidden()
    page.get_by_role("radio", name="All").check()
    expect(page.locator('th[data-key="train_mb"]')).to_be_visible()
    page.locator("#ranking .scroll").first.evaluate("element => element.scrollLeft = 9999")
    assert shape(page, "tr.entry .model")["x"] >= 0, "the name stays in sight"


def test_the_drawer_opens_by_key_holds_the_focus_and_closes(visit: Any, ordinary: Path) -> None:
    one = visit(ordinary)
    page = one.page
    opener = page.locator("tr.entry .open").first
    opener.press("Enter")
    drawer = page.get_by_role("dialog", name="repmode_tiny")
    expect(drawer).to_be_visible()
    expect(drawer).to_contain_text("RepMode: Learning to Re-parameterize")
    expect(drawer).to_contain_text("null 97.5 %")
    one.address("model=repmode_tiny")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(opener).to_be_focused()
    expect(page).to_have_url(re.compile("^[^#]*#?$"))
    opener.click()
    page.mouse.click(20, 400)  # beside it
    expect(drawer).to_be_hidden()


def point_at(page: Any, mark: Any, words: str) -> None:
    """Point at a mark until its tooltip says `words`: a chart that is drawn anew under the pointer hides it."""
    tip = page.get_by_role("tooltip")
    for _ in range(20):
        page.mouse.move(1, 1)
        mark.hover()
        try:
            expect(tip).to_contain_text(words, timeout=PATIENCE / 20)
            return
        except AssertionError:
            continue
    expect(tip).to_contain_text(words)


def test_points_of_a_chart_tell_and_open_their_model(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary).page
    mark = page.locator("#chart-memory").get_by_role("button", name="smp_unet")
    point_at(page, mark, "peak memory of training, MB (CPU memory): 150")
    mark.press("Enter")
    expect(page.get_by_role("dialog", name="smp_unet")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Measure of memory").select_option("parameters")
    expect(page.locator("#chart-memory svg")).to_have_attribute("aria-label", "Dice against parameters")


def test_a_model_that_fails_a_control_is_a_cross_that_says_so(visit: Any, tmp_path: Path) -> None:
    of = example.fragment("one")
    models = {"good": (0.7, 200.0, 0.2), "lays out": (0.31, 90.0, 0.1), "zmean": (0.3, 40.0, 0.05)}
    example.page(tmp_path, [of], example.bench(tmp_path, [of], models, seeds=1))
    page = visit(tmp_path / "leaderboard.html").page
    marks = page.locator("#chart-memory .mark")
    expect(marks.locator("circle.dot")).to_have_count(2)
    expect(marks.filter(has=page.locator("path.dot"))).to_have_count(1)
    cross = page.locator("#chart-memory").get_by_role("button", name="lays out")
    expect(cross.locator("path.dot")).to_have_count(1)
    point_at(page, cross, "fails a control")
    expect(page.locator("#chart-memory text.name").filter(has_text="lays out ✗")).to_have_count(1)


@pytest.mark.parametrize("width", [1280, 380])
def test_labels_in_a_chart_do_not_overlap(visit: Any, ordinary: Path, width: int) -> None:
    page = visit(ordinary, viewport={"width": width, "height": 800}).page
    for chart in ("memory", "time"):
        found = page.locator(f"#chart-{chart} text.name, #chart-{chart} text.floor-name")
        box = "text => { const { x, y, width, height } = text.getBBox(); return { x, y, width, height } }"
        boxes = [label.evaluate(box) for label in found.all()]
        assert len(boxes) >= 6
        for index, a in enumerate(boxes):
            for b in boxes[index + 1 :]:
                apart_x = a["x"] + a["width"] <= b["x"] + 0.5 or b["x"] + b["width"] <= a["x"] + 0.5
                apart_y = a["y"] + a["height"] <= b["y"] + 0.5 or b["y"] + b["height"] <= a["y"] + 0.5
                assert apart_x or apart_y, (a, b)


def test_learning_curves_are_hidden_and_shown_by_their_name(visit: Any, ordinary: Path) -> None:
    one = visit(ordinary)
    page = one.page
    curves = page.locator("#chart-curves path.curve")
    expect(curves).to_have_count(28)  # seven trained rows, two fragments, two seeds
    name = page.locator("#legend").get_by_role("button", name="sam_tiny")
    name.click()
    expect(name).to_have_attribute("aria-pressed", "false")
    expect(curves).to_have_count(24)
    one.address("off=1")
    name.click()
    expect(curves).to_have_count(28)


def boundary(page: Any) -> float:
    """Where the slider's boundary is, as a share of the stage."""
    stage, divider = shape(page, ".stage:visible"), shape(page, ".divider:visible")
    return (divider["x"] + divider["width"] / 2 - stage["x"]) / stage["width"]


def test_the_slider_moves_by_mouse_and_key_between_any_two_maps(visit: Any, ordinary: Path) -> None:
    one = visit(ordinary)
    page = one.page
    assert boundary(page) == pytest.approx(0.5, abs=0.01)
    slider = page.get_by_label("Boundary between the left and the right map").first
    slider.focus()
    slider.press("Home")
    assert boundary(page) == pytest.approx(0, abs=0.01)
    slider.press("End")
    assert boundary(page) == pytest.approx(1, abs=0.01)
    page.locator(".stage").first.scroll_into_view_if_needed()
    stage, divider = shape(page, ".stage:visible"), shape(page, ".divider:visible")
    page.mouse.move(divider["x"] + divider["width"] / 2, stage["y"] + 30)
    page.mouse.down()
    page.mouse.move(stage["x"] + 0.25 * stage["width"], stage["y"] + 40, steps=4)
    page.mouse.up()
    assert boundary(page) == pytest.approx(0.25, abs=0.01)
    page.get_by_label("Picture on the left").select_option("CT layer 1")
    page.locator('[data-picture="map sam_tiny"]').first.get_by_role("button", name="right").click()
    for side, key in (("over img", "layer"), ("under", "map sam_tiny")):
        shown = page.locator(f".stage:visible .{side.split()[0]}{' img' if ' ' in side else ''}").get_attribute("src")
        assert shown == page.locator(f'.region:visible [data-picture="{key}"] img').get_attribute("src")
    one.address("right=map+sam_tiny")
    assert boundary(page) == pytest.approx(0.25, abs=0.01)


def test_all_maps_zoom_and_pan_together(visit: Any, ordinary: Path) -> None:
    one = visit(ordinary)
    page = one.page
    images = page.locator(".region:visible .sheet img, .region:visible .stage img")
    stage = page.locator(".stage").first

    def transforms() -> set[str]:
        scale = "image => { const m = new DOMMatrix(getComputedStyle(image).transform); const w = image.offsetWidth;"
        scale += " return [m.a, m.e / w, m.f / image.offsetHeight].map(v => v.toFixed(2)).join() }"
        return {images.nth(index).evaluate(scale) for index in range(images.count())}

    assert transforms() == {"1.00,0.00,0.00"}
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("#zoom-level")).to_have_text("1.5×")
    assert transforms() == {"1.50,-0.25,-0.25"}
    stage.scroll_into_view_if_needed()
    box = shape(page, ".stage:visible")
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"], steps=3)
    page.mouse.up()
    assert transforms() == {"1.50,-0.15,-0.25"}
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    expect(page.locator("#zoom-level")).to_have_text("4.1×")
    stage.focus()
    stage.press("0")
    assert transforms() == {"1.00,0.00,0.00"}
    stage.press("+")
    stage.press("ArrowRight")
    assert transforms() == {"1.50,-0.35,-0.25"}


def test_a_link_keeps_the_whole_view(visit: Any, ordinary: Path) -> None:
    one = visit(ordinary)
    page = one.page
    page.locator('th[data-key="auc"]').get_by_role("button").click()
    page.locator('th[data-key="auc"]').get_by_role("button").click()
    page.get_by_label("Filter").fill("tiny")
    page.get_by_role("radio", name="All").check()
    page.get_by_label("Region").select_option("without two/two")
    page.get_by_label("Picture on the left").select_option("CT layer 1")
    page.get_by_label("Boundary").locator("visible=true").fill("30")
    page.get_by_role("button", name="Zoom in").click()
    page.locator("tr.entry:visible .open").first.click()
    one.address("model=")
    address = page.evaluate("location.hash")
    drawn = "() => [document.querySelector('#maps').style.cssText, document.querySelector('dialog[open]').id,"
    drawn += "[...document.querySelectorAll('tr.entry')].filter(row => !row.hidden).map(row => row.id).join(),"
    drawn += "document.querySelector('#left').value, document.querySelector('#table').dataset.columns]"
    before = page.evaluate(drawn)

    other = visit(ordinary, address).page
    assert other.evaluate(drawn) == before
    expect(other.locator('.region[data-region="without two/two"]')).to_be_visible()
    expect(other.locator('.region[data-region="without one/one"]')).to_be_hidden()
    expect(other.locator('th[data-key="auc"]')).to_have_attribute("aria-sort", "ascending")


def test_a_link_with_nonsense_shows_the_plain_page(visit: Any, ordinary: Path) -> None:
    nonsense = "#sort=%22%5D&order=x&columns=y&model=z&region=q&left=r&at=NaN&zoom=a,b&off=99.x&__proto__=1&%E0%A4%A"
    page = visit(ordinary, nonsense).page
    assert labels(page)[0] == "repmode_tiny"
    expect(page.locator("#zoom-level")).to_have_text("1×")
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("#chart-curves path.curve")).to_have_count(28)


def test_going_back_to_another_link_changes_the_view(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary, "#find=sam").page
    assert labels(page) == ["sam_tiny"]
    page.evaluate("location.hash = '#find=repmode'")
    expect(page.locator("#count")).to_have_text("1 of 9 rows")
    expect(page.locator("tr.entry:visible .open")).to_have_text("repmode_tiny")
    page.go_back()
    expect(page.locator("tr.entry:visible .open")).to_have_text("sam_tiny")


LIGHTNESS = """element => {
  const canvas = document.createElement('canvas').getContext('2d');
  canvas.fillStyle = getComputedStyle(element).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data[0];
}"""


def test_dark_follows_the_system_and_the_switch_overrides_it(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary, color_scheme="dark").page
    body = page.locator("body")
    assert body.evaluate(LIGHTNESS) < 60
    page.get_by_role("radio", name="Light").check()
    assert body.evaluate(LIGHTNESS) > 200
    page.reload()
    assert body.evaluate(LIGHTNESS) > 200, "the choice is kept"
    page.emulate_media(color_scheme="light")
    page.get_by_role("radio", name="Dark").check()
    assert body.evaluate(LIGHTNESS) < 60
    page.get_by_role("radio", name="Auto").check()
    assert body.evaluate(LIGHTNESS) > 200


def test_on_paper_the_page_is_light_and_shows_every_region(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary, color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.locator("body").evaluate("element => getComputedStyle(element).colorScheme") == "light"
    for region in page.locator(".region").all():
        expect(region).to_be_visible()
    for hidden in ("#filter", ".slider", ".theme", "nav"):
        expect(page.locator(hidden).first).to_be_hidden()
    expect(page.locator("#chart-memory svg")).to_be_visible()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Any, ordinary: Path, hostile: Path) -> None:
    for file in (ordinary, hostile):
        phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
        page = visit(file, **phone).page
        page.wait_for_function("() => document.documentElement.scrollWidth <= 360 && innerWidth === 360")
        page.locator("tr.entry .open").first.tap()
        expect(page.locator("dialog[open]")).to_be_visible()
        box = shape(page, "dialog[open]")
        assert box["width"] < 360.5
        assert page.locator("dialog[open]").evaluate("element => element.scrollWidth <= element.clientWidth")
    page = visit(ordinary, **phone).page
    page.get_by_label("Sort by").select_option("train_mb")
    expect(page.locator("tr.entry .open").first).to_have_text("depthcnn_tiny")


def test_hostile_names_stay_names(visit: Any, hostile: Path) -> None:
    one = visit(hostile)
    page = one.page
    assert labels(page) == [HOSTILE, f"{HOSTILE} two"]
    page.locator("tr.entry .open").first.click()
    expect(page.locator("dialog[open] h2")).to_have_text(HOSTILE)
    one.address("model=")
    again = visit(hostile, page.evaluate("location.hash")).page
    expect(again.locator("dialog[open] h2")).to_have_text(HOSTILE)
    again.keyboard.press("Escape")
    point_at(again, again.locator("#chart-memory .mark").first, "window.ran=2")
    again.get_by_label("Picture on the left").select_option(f"map {HOSTILE} two")
    expect(again.locator(".tag.left")).to_have_text(f"{HOSTILE} two")
    again.get_by_label("Filter").fill("<script>")
    expect(again.locator("#count")).to_have_text("3 of 4 rows")
    assert again.title() == HOSTILE
    for opened in (page, again):
        assert opened.evaluate("window.ran === undefined")
        assert opened.evaluate("document.querySelectorAll('img[src=x], script').length") == 3


def test_everything_that_can_be_clicked_has_a_name(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary).page
    nameless = """() => [...document.querySelectorAll('button, a, input, select, [role=button]')].filter((element) =>
      !(element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.length))
      .map((element) => element.outerHTML)"""
    assert page.evaluate(nameless) == []
    twice = "() => [...document.querySelectorAll('[id]')].map(e => e.id).filter((id, at, all) => all.indexOf(id) < at)"
    assert page.evaluate(twice) == []


def test_the_script_moves_nothing_that_was_there_before_it(visit: Any, ordinary: Path, tmp_path: Path) -> None:
    text = ordinary.read_text(encoding="utf-8")
    start, end = text.rindex("<script>"), text.rindex("</script>")
    (tmp_path / "before.html").write_text(text[:start] + text[end + len("</script>") :], encoding="utf-8")
    tops = "() => [...document.querySelectorAll('section, h2, figure')].map("
    tops += "element => Math.round(element.getBoundingClientRect().top))"
    assert visit(ordinary).page.evaluate(tops) == visit(tmp_path / "before.html").page.evaluate(tops)


def test_without_scripts_table_cards_and_maps_can_be_read(visit: Any, ordinary: Path) -> None:
    page = visit(ordinary, java_script_enabled=False).page
    expect(page.get_by_text("RepMode: Learning to Re-parameterize").first).to_be_visible()
    expect(page.locator('[data-picture="map sam_tiny"] img').first).to_be_visible()
    expect(page.locator("#filter")).to_be_hidden()
