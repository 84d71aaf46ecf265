"""The published schemas are those of the code, and what the bench writes keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.test_bench_merge import bench, merged
from zoo.bench.schema import SCHEMAS, leaderboard_schema, schema_text, write_schemas
from zoo.significance import PairedInterval

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

PUBLISHED = Path(__file__).resolve().parents[2] / "benchmarks"
needs_checkout = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="benchmarks/ is part of a checkout only")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench with a leader, one that is told apart from it, and their leaderboard."""
    out = tmp_path_factory.mktemp("bench")
    merged(bench(out, {"good": 0.8, "bad": 0.5}, hardware="one"), out=out)
    return out


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@needs_checkout
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_published_schema_is_the_codes(name: str) -> None:
    now = schema_text(SCHEMAS[name]())
    assert (PUBLISHED / name).read_text(encoding="utf-8") == now, "python -m zoo.bench.schema writes it anew"


def test_a_leaderboard_that_the_bench_writes_keeps_it(written: Path) -> None:
    leaderboard = read(written / "leaderboard.json")
    assert leaderboard["rows"][1]["to_leader"]  # a difference is there to be checked
    jsonschema.validate(leaderboard, leaderboard_schema())


def test_the_results_of_runs_keep_theirs(written: Path) -> None:
    runs = sorted(written.glob("runs/*/result.json"))
    assert runs
    for run in runs:
        jsonschema.validate(read(run), SCHEMAS["result.schema.json"]())


def test_what_changes_places_between_budgets_keeps_it(written: Path) -> None:
    budgets = pytest.importorskip("zoo.bench.budgets", reason="no budgets are compared")
    leads, trails = (PairedInterval(lead, lead - 0.02, lead + 0.02, 60, 0.01) for lead in (0.05, -0.05))
    crossing = budgets.Crossing("good", "bad", (0.5, 1.0), (leads, trails))
    found = budgets.Budgets({"good": {0.5: 0.7, 1.0: 0.7}, "bad": {0.5: 0.65, 1.0: 0.75}}, [crossing])
    leaderboard = read(written / "leaderboard.json")
    leaderboard["budgets"] = json.loads(json.dumps(found.as_dict()))
    jsonschema.validate(leaderboard, leaderboard_schema())
    del leaderboard["budgets"]["crossings"][0]["differences"][0]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(leaderboard, leaderboard_schema())


@pytest.mark.parametrize(
    "fault",
    [
        {"dice": "high"},
        {"rank": 1.5},
        {"quality": {"dice": "0.8"}},
        {"to_leader": {"diff": 0.1}},
        {"above_floors": {"zmean": {"diff": 0.1, "lo": 0.0, "hi": 0.2, "n_blocks": 60, "p": 0.01, "q": 0.0}}},
        {"no_such_column": 1},
    ],
)
def test_another_shape_does_not(written: Path, fault: dict[str, Any]) -> None:
    leaderboard = read(written / "leaderboard.json")
    leaderboard["rows"][0] |= fault
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(leaderboard, leaderboard_schema())


@needs_checkout
@pytest.mark.parametrize(
    "path", sorted(PUBLISHED.glob("results/*/leaderboard.json")), ids=lambda path: path.parent.name
)
def test_committed_leaderboards_keep_the_published_schema(path: Path) -> None:
    jsonschema.validate(read(path), read(PUBLISHED / "leaderboard.schema.json"))


def test_schemas_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*SCHEMAS}
    for name in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(read(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_schemas(tmp_path / "absent")
