"""Configurations are found by name, by path, and with the nearest name when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import configs


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "suites").mkdir()
    (tmp_path / "train").mkdir()
    for name in ("quick", "scroll1-rows", "scroll1-columns"):
        (tmp_path / "suites" / f"{name}.yaml").write_text("{}\n")
    (tmp_path / "suites" / "notes.txt").write_text("not a configuration\n")
    monkeypatch.setattr(configs, "configs_root", lambda: tmp_path)
    return tmp_path


def test_the_checkout_has_its_configurations(root: Path) -> None:
    assert configs.configs_root() == root / "configs"


def test_names_are_listed_in_order(shipped: Path) -> None:
    assert configs.list_configs("suites") == ["quick", "scroll1-columns", "scroll1-rows"]


def test_a_name_gives_its_file(shipped: Path) -> None:
    assert configs.config_path("suites", "quick") == shipped / "suites" / "quick.yaml"


def test_an_own_file_is_taken_as_it_is(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("{}\n")
    assert configs.config_path("suites", str(own)) == own


def test_an_own_file_that_is_absent_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        configs.config_path("suites", "absent.yaml")


def test_an_unknown_name_lists_the_nearest(shipped: Path) -> None:
    with pytest.raises(ValueError, match="scroll1-row'.*nearest: scroll1-rows"):
        configs.config_path("suites", "scroll1-row")


def test_an_unknown_kind_lists_the_kinds(shipped: Path) -> None:
    with pytest.raises(ValueError, match="suites, train"):
        configs.list_configs("suite")
