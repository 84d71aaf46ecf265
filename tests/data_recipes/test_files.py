"""A file appears whole or not at all, and what cannot be written to is found out first."""

from __future__ import annotations

import pytest

from data_recipes.files import check_file, check_writable, whole_file


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "table.csv"
    with whole_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert target.read_text() == "new"


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def interrupted() -> None:
        with whole_file(target) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert target.read_text() == "old"


def test_a_folder_is_made_or_refused_by_the_options_name(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"^--out .*file is a file; give a folder"):
            check_writable(tmp_path / folder)
    with pytest.raises(ValueError, match=r"^--table .*a is a folder; name the file to write"):
        check_file(tmp_path / "a", "--table")
    check_file(tmp_path / "c" / "table.csv")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ValueError, match=r"^--out .*c is not writable"):
        check_file(tmp_path / "c" / "table.csv")
