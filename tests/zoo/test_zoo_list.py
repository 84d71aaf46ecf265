"""`python -m zoo list | show`, and the table that is kept for it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from zoo import catalogue as kept
from zoo import list_families, list_models, model_card
from zoo.__main__ import list_command, show_command
from zoo.catalogue import catalogue
from zoo.listing import _short, print_card, print_list

FAMILY = "depthcnn"  # the cheapest to count
NAMES = ["depthcnn_tiny", "depthcnn_base"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "SHIPPED", tmp_path / "not shipped")


def printed(show, what, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(what, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_has_the_card_and_the_cost() -> None:
    (row,) = catalogue(["depthcnn_tiny"])
    card = model_card("depthcnn_tiny")
    assert (row["summary"], row["tile"], row["differs"]) == (card.summary, card.tile, list(card.differs))
    assert row["parameters"] == row["trainable"] > 0 and row["flops"] > 0 and row["activation_bytes"] > 0


def test_rows_come_in_the_order_asked_for_and_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = catalogue(NAMES, said.append)
    assert [row["name"] for row in first] == NAMES
    assert len(said) == 1 and "counting 2 models" in said[0]
    monkeypatch.setattr(kept, "describe", lambda name: pytest.fail(f"{name} was counted again"))
    assert catalogue(NAMES[::-1], said.append) == first[::-1]
    assert len(said) == 1


@pytest.mark.parametrize("change", ["a library", "a source file"])
def test_what_is_kept_falls_with_anything_it_follows_from(
    change: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalogue(["depthcnn_tiny"])
    if change == "a library":
        monkeypatch.setattr(kept, "version", lambda library: "0.0" if library == "monai" else "1.0")
    else:
        for part in ("card", "cost", "registry", "catalogue", "__init__"):
            (tmp_path / f"{part}.py").write_text("")
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "new.py").write_text("one = 1")
        monkeypatch.setattr(kept.zoo, "__file__", str(tmp_path / "__init__.py"))
    counted: list[str] = []
    monkeypatch.setattr(kept, "describe", lambda name: counted.append(name) or {"name": name})
    catalogue(["depthcnn_tiny"])
    assert counted == ["depthcnn_tiny"]


@pytest.mark.parametrize("content", ["", "[]", '{"digest": "x"}', "\x00"])
def test_a_damaged_cache_is_counted_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "catalogue.json").write_text(content)
    assert catalogue(["depthcnn_tiny"])[0]["parameters"] > 0
    assert "rows" in json.loads((tmp_path / "cache" / "catalogue.json").read_text())


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert catalogue(["depthcnn_tiny"])[0]["parameters"] > 0


def test_a_model_of_another_package_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(kept, "describe", lambda name: counted.append(name) or {"name": name})
    for _ in range(2):
        catalogue(["other.nets:build_net"])
    assert counted == ["other.nets:build_net"] * 2


def test_a_kept_table_is_printed_without_torch() -> None:
    catalogue(list_models(FAMILY))
    code = (
        "import sys\nfrom zoo.__main__ import list_command\n"
        f"list_command('{FAMILY}')\nassert 'torch' not in sys.modules, 'loaded without need'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "depthcnn_base" in done.stdout and not done.stderr


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_its_terminal(width: int) -> None:
    rows = catalogue(NAMES)
    rows[0]["name"] = rows[0]["name"].ljust(27, "x")  # as long as the longest registered name
    text = printed(print_list, rows, width)
    assert max(map(len, text.splitlines())) <= width
    (line,) = (line for line in text.splitlines() if "depthcnn_base" in line and "≥" in line)
    for cell in ("2.31 M", "4.17 G", "MB", "13×96²", "16·n ≥ 16"):
        assert cell in line, "nothing is folded or cut"


def test_no_registered_name_is_cut_at_eighty_columns() -> None:
    rows = [catalogue(["depthcnn_tiny"])[0] | {"name": n, "family": model_card(n).family} for n in list_models()]
    lines = printed(print_list, rows, 80).splitlines()
    for row in rows:
        assert any(row["name"] in line.split() and "13×96²" in line for line in lines), f"{row['name']} is cut"


def test_what_a_family_shares_is_said_once() -> None:
    row = catalogue(["depthcnn_tiny"])[0]
    pair = [row | {"name": "one", "differs": ["both", "only one"]}, row | {"name": "two", "differs": ["both"]}]
    text = printed(print_list, pair, 100)
    assert text.count("- both") == 1 and "- one: only one" in text
    assert text.count(row["licence"]) == 1


def test_square_brackets_are_printed_as_they_are() -> None:
    row = catalogue(["depthcnn_tiny"])[0] | {
        "summary": "reads [bold]",
        "differs": ["a [red] b"],
        "options": {"k": "[1]"},
    }
    for text in (printed(print_list, [row], 90), printed(print_card, row, 90)):
        assert "reads [bold]" in text and "a [red] b" in text
    assert "[1]" in text


def test_the_card_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    show_command("repmode")
    text = capsys.readouterr().out
    card = model_card("repmode_tiny")
    assert text.startswith("repmode_tiny\n")
    for word in ("CVPR 2023", card.url, "multiples of 16 from 32", "traced whole", "by torch.export", *card.options):
        assert word in text
    words = " ".join(text.split())
    assert all(" ".join(sentence.split()[:4]) in words for sentence in card.differs)


def test_a_reason_not_to_trace_or_export_is_shown() -> None:
    row = catalogue(["depthcnn_tiny"])[0] | {"not_traced": "it asks the values", "not_exported": "it draws"}
    text = printed(print_card, row, 90)
    assert "not as one graph: it asks the values" in text and "not by torch.export: it draws" in text


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    list_command(FAMILY, json_=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models(FAMILY)
    show_command("depthcnn_base", json_=True)
    assert json.loads(capsys.readouterr().out) == rows[1]
    assert {"paper", "licence", "differs", "options", "multiple", "activation_bytes"} <= rows[0].keys()


def test_an_unknown_family_names_the_nearest() -> None:
    assert FAMILY in list_families()
    with pytest.raises(ValueError, match="unknown family 'depthcn'; the nearest are depthcnn"):
        list_command("depthcn")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 "), (999, "999 "), (999_499, "999 k"), (999_500, "1.00 M"), (1_910_537, "1.91 M"), (99_960_000, "100 M")],
)
def test_numbers_in_three_digits(number: int, text: str) -> None:
    assert _short(number) == text


def test_the_table_that_comes_with_the_package_is_of_these_models(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(kept.__file__).with_name("catalogue.json")
    stored = json.loads(shipped.read_text(encoding="utf-8"))
    assert stored["digest"] == kept._digest(), "models or libraries have changed: run `python -m zoo.catalogue`"
    assert list(stored["rows"]) == [name for name in list_models() if ":" not in name]
    for name in ("depthcnn_tiny", "unet3plus_tiny", "repmode_tiny"):
        assert stored["rows"][name] == kept.describe(name)
