"""A row that starts from another run's weights says so, and fails where these have seen what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo.test_bench_parts import fragment, plan, saved_results, suite
from zoo.bench import leaderboard, tables
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.result import Result
from zoo.bench.run import train_stage
from zoo.bench.suite import ModelEntry

SMALL: dict[str, Any] = {
    "floors": [],
    "tile": 32,
    "depth": 13,
    "samples": 20,
    "letter_px": 32,
    "train": {"batch_size": 4, "loss": "bce", "precision": "fp32", "augment": None},
}


def specs(start_from: str = "", **options: Any) -> list[RunSpec]:
    from data_recipes.fragment import open_fragments

    data = ["phantom:dipole:1:192x384"]
    bench = suite(models=[ModelEntry(name="sam", options=options, start_from=start_from)], **SMALL)
    models = resolve_models(bench, None, "cpu")
    settings: dict[str, Any] = {"steps": 1}
    return plan_runs(bench, models, open_fragments(data), data=data, device="cpu", seeds=[0], folds=[], train=settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a bench, trained on its first fold."""
    folder = tmp_path_factory.mktemp("source")
    train_stage(specs()[0], folder)
    return folder / "last.safetensors"


@pytest.mark.parametrize("tuning", ["decoder", "lora"])
def test_a_row_starts_from_the_weights_it_names_and_says_what_they_saw(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tuning: str
) -> None:
    same_fold, other_fold = specs(str(source), tuning=tuning)
    trained = train_stage(same_fold, tmp_path / "same")
    assert trained["started_from"]["name"] == "sam_tiny"
    assert trained["started_from"]["sha256"] == same_fold.start_sha256
    assert trained["started_from"]["held_out_px_seen"] == 0
    assert "tensors carried over" in capsys.readouterr().out
    leaky = train_stage(other_fold, tmp_path / "other")
    assert leaky["started_from"]["held_out_px_seen"] > 0


def test_what_counts_is_the_checkpoints_content_not_its_place(source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(source.read_bytes())
    here, there, none = (specs(path)[0] for path in (str(source), str(moved), ""))
    assert here.digest == there.digest != none.digest
    moved.write_bytes(b"something else")
    with pytest.raises(ValueError, match="has changed|not a checkpoint|safetensors"):
        train_stage(there, tmp_path / "run")


def test_a_checkpoint_that_is_not_there_is_named_before_anything_runs() -> None:
    bench = suite(models=[ModelEntry(name="depthcnn", start_from="nowhere.safetensors")], floors=[])
    with pytest.raises(FileNotFoundError, match=r"depthcnn.*nowhere\.safetensors: no such checkpoint"):
        plan(bench, {"a": fragment(np.eye(1024, dtype=np.uint8))}, [0], steps=1)


def marked(result: Result, seen: int | None, trained: str | None = None) -> Result:
    source = {"name": "sam_tiny", "sha256": "0123456789abcdef", "held_out_px_seen": seen, "trained": trained}
    return result.model_copy(update={"controls": {"started_from": source}})


@pytest.mark.parametrize(
    ("seen", "failures", "told"),
    [
        (0, [], "which has seen nothing of what is held out"),
        (
            42,
            ["the weights it starts from were trained on 42 px of what is held out"],
            "which was trained on 42 px of what is held out",
        ),
        (None, [], "whether it has seen the test region is not known"),
    ],
)
def test_the_row_says_what_its_weights_are_and_whether_they_saw_what_is_held_out(
    tmp_path: Path, seen: int | None, failures: list[str], told: str
) -> None:
    results = [marked(result, seen) for result in saved_results(tmp_path, {"model": 0.8}, blocks=60)]
    (row,) = leaderboard.build_rows(results, tmp_path, floors=[])
    assert row.failures == failures
    unknown = "how long it was trained before is not on record"
    assert row.warnings == [f"starts from sam_tiny ({unknown}), SHA-256 0123456789ab, {told}"]
    assert row.settings["start_from"].startswith("sam_tiny, SHA-256 0123")


def test_the_row_says_how_long_its_weights_were_trained_before(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"model": 0.8}, blocks=60)
    results = [marked(result, 0, "600 steps of 16 tiles") for result in results]
    (row,) = leaderboard.build_rows(results, tmp_path, floors=[])
    assert row.warnings[0].startswith("starts from sam_tiny (trained for 600 steps of 16 tiles before), SHA-256")
    assert row.warnings[0] in tables.markdown([row], "t", [])


def given(result: Result, model: str, **options: Any) -> Result:
    return result.model_copy(update={"spec": result.spec.model_copy(update={"model": model, "options": options})})


@pytest.mark.parametrize(
    ("model", "options", "warnings"),
    [
        (
            "sam_vit_b",
            {"pretrained": True, "tuning": "lora"},
            ["starts from given weights (pretrained=True); what they have seen is not known"],
        ),
        ("sam_vit_b", {"pretrained": False}, []),
        ("no_such_package:build_it", {"weights": "x"}, []),
    ],
)
def test_the_row_says_that_it_starts_from_given_weights(
    tmp_path: Path, model: str, options: dict[str, Any], warnings: list[str]
) -> None:
    (result, *_) = saved_results(tmp_path, {"model": 0.8}, blocks=60)
    (row,) = leaderboard.build_rows([given(result, model, **options)], tmp_path, floors=[])
    assert row.warnings == warnings
