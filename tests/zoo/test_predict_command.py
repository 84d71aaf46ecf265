"""`python -m zoo.predict` as a person runs it: one map, parts, what it says, what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from tests.zoo.segments import CONTRACT, DEPTH, KNOWN, tree, wake, write_checkpoint, write_mask, write_segment
from zoo.cluster import Workers
from zoo.predict.__main__ import PredictOptions, ReduceOptions
from zoo.predict.cluster import _job
from zoo.predict.command import predict_command, reduce_command
from zoo.predict.job import Job
from zoo.predict.plan import Plan
from zoo.predict.store import MapStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    mask = np.ones((300, 520), bool)
    mask[200:, :180] = False
    write_mask(write_segment(folder / "segment", 300, 520), mask)
    write_checkpoint(folder / "a.safetensors")
    write_checkpoint(folder / "b.safetensors", seed=1)
    return folder


def predict(home: Path, out: str, checkpoint: str = "a.safetensors", **options: object) -> int:
    said = {"device": "cpu", "shard": 256, "overlap": 0.25, **options}
    names = ",".join(str(home / name) for name in checkpoint.split(","))
    return predict_command(PredictOptions(str(home / "segment"), names, home / out, **said))  # pyright: ignore


def map_of(home: Path, out: str) -> np.ndarray:
    return np.asarray(zarr.open_array(home / out / "0", mode="r")[:])


def provenance(home: Path, out: str) -> dict:
    return zarr.open_group(home / out, mode="r").attrs["inkzoo"]["prediction"]  # pyright: ignore


def test_parts_and_reduce_give_the_bytes_of_one_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(home, "one.zarr", also=("tif", "csv"), threshold=0.5) == 0
    told = capsys.readouterr().err
    for words in ("300×520 px, layers 0 to 4", "depthcnn_tiny on cpu", "Mpx/s", "one.tif"):
        assert words in told
    for part in (2, 0):
        assert predict(home, "parts.zarr", num_parts=3, part_id=part) == 0
    with pytest.raises(
        ValueError, match=r"not finished: 2 of 6 shards are missing, of part 1 \(2 shards\).*--part-id 1"
    ):
        reduce_command(ReduceOptions(home / "parts.zarr"))
    with pytest.raises(ValueError, match="begun with another overlap"):
        predict(home, "parts.zarr", num_parts=3, part_id=1, overlap=0.5)
    assert predict(home, "parts.zarr", num_parts=3, part_id=1) == 0
    assert reduce_command(ReduceOptions(home / "parts.zarr", also=("tif", "csv"), threshold=0.5)) == 0
    assert map_of(home, "one.zarr")[:200].std() > 1
    assert tree(home / "one.zarr") == tree(home / "parts.zarr")
    assert (home / "one.tif").read_bytes() == (home / "parts.tif").read_bytes()
    with pytest.raises(FileExistsError, match="one.zarr: exist already; remove them"):
        predict(home, "one.zarr")


def test_a_finished_map_is_given_other_forms_and_a_threshold(home: Path) -> None:
    predict(home, "more.zarr")
    with pytest.raises(ValueError, match="is finished: nothing to put together"):
        reduce_command(ReduceOptions(home / "more.zarr"))
    pixels = tree(home / "more.zarr/0")
    reduce_command(ReduceOptions(home / "more.zarr", also=("mask", "tif"), threshold=0.5))
    with Image.open(home / "more_mask.png") as picture:
        assert np.array_equal(np.asarray(picture), np.where(map_of(home, "more.zarr") >= 127.5, 255, 0))
    assert provenance(home, "more.zarr")["threshold"] == 0.5
    assert tree(home / "more.zarr/0") == pixels
    with pytest.raises(ValueError, match="of a finished OUT.zarr"):
        reduce_command(ReduceOptions(home / "more.tif", also=("mask",)))


def test_what_decided_a_map_is_in_it(home: Path) -> None:
    predict(home, "said.zarr", "a.safetensors,b.safetensors", threshold=0.4, tta="flips", blend="gaussian")
    said = provenance(home, "said.zarr")
    assert said["threshold"] == 0.4
    assert (said["tta"], said["blend"], said["overlap"]) == ("flips", "gaussian", 0.25)
    assert [len(ref["sha256"]) for ref in said["checkpoints"]] == [64, 64]
    assert said["contract"]["mean"] == CONTRACT.mean
    assert said["checkpoints"][0]["seen"] == {"somewhere": [[0, 8, 0, 8]]}
    assert said["checkpoints"][0]["normalisation"]["mean"] == CONTRACT.mean
    assert set(said["versions"]) == {"inkzoo", "torch", "python"}
    assert said["precision"] in ("fp32", "bf16")


def test_several_checkpoints_are_averaged(home: Path) -> None:
    for out, names in (
        ("ma.zarr", "a.safetensors"),
        ("mb.zarr", "b.safetensors"),
        ("ab.zarr", "a.safetensors,b.safetensors"),
    ):
        predict(home, out, names, precision="fp32", dtype="float16")
    mean = (map_of(home, "ma.zarr").astype(float) + map_of(home, "mb.zarr")) / 2
    np.testing.assert_allclose(map_of(home, "ab.zarr"), mean, atol=2e-3)
    assert np.abs(map_of(home, "ma.zarr").astype(float) - map_of(home, "mb.zarr")).max() > 0.01


def test_a_direction_that_leaves_the_volume_stops_both_before_the_first(tmp_path: Path) -> None:
    write_segment(tmp_path / "segment", 64, 64, depth=DEPTH + 1)  # layers 1 to 5 are read forward, -1 to 3 reverse
    write_checkpoint(tmp_path / "a.safetensors", contract=CONTRACT.model_copy(update={"offset": 1}))
    with pytest.raises(ValueError, match="layers -?[0-9]+ to [0-9]+ are needed"):
        predict(tmp_path, "way.zarr", direction="both")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("way")]


def test_both_directions_are_two_maps(home: Path) -> None:
    predict(home, "way.forward.zarr", direction="forward", dtype="float16")  # as if interrupted after the first
    predict(home, "way.zarr", direction="both", dtype="float16")
    with pytest.raises(FileExistsError, match="exist already"):
        predict(home, "way.zarr", direction="both", dtype="float16")
    forward, reverse = map_of(home, "way.forward.zarr"), map_of(home, "way.reverse.zarr")
    assert (forward != reverse).any()
    assert provenance(home, "way.reverse.zarr")["contract"]["direction"] == "reverse"


def test_a_voxel_size_that_differs_is_resampled_on_request(home: Path, tmp_path: Path) -> None:
    write_segment(tmp_path / "coarse", 60, 70, known=KNOWN.replace("7.91", "15.82"))
    given = (str(tmp_path / "coarse"), str(home / "a.safetensors"))
    with pytest.raises(ValueError, match="--voxel-size resample"):
        predict_command(PredictOptions(*given, tmp_path / "no.zarr", device="cpu"))
    predict_command(PredictOptions(*given, tmp_path / "fine.zarr", device="cpu", voxel_size="resample"))
    assert map_of(tmp_path, "fine.zarr").shape == (120, 140)
    assert provenance(tmp_path, "fine.zarr")["voxel_um"] == pytest.approx(7.91)
    assert provenance(tmp_path, "fine.zarr")["resampled"] == pytest.approx(2.0)


def test_a_node_that_resamples_finds_the_data_as_they_were(home: Path, tmp_path: Path) -> None:
    write_segment(tmp_path / "coarse", 60, 70, known=KNOWN.replace("7.91", "15.82"))
    given = (str(tmp_path / "coarse"), str(home / "a.safetensors"), tmp_path / "map.zarr")
    predict_command(PredictOptions(*given, device="cpu", voxel_size="resample", num_parts=2))
    plan = MapStore.resume(tmp_path / "map.zarr.partial").plan.model_dump_json()
    assert _job(plan, "cpu").fragment.shape == (120, 140)
    _job.cache_clear()
    layer = tmp_path / "coarse/layers/00.tif"
    tifffile.imwrite(layer, 255 - tifffile.imread(layer))
    with pytest.raises(ValueError, match="not the data that lies there"):
        _job(plan, "cpu")


def test_the_task_is_that_of_the_fragment_or_asked_for(tmp_path: Path) -> None:
    from zoo import create_model
    from zoo.checkpoint import save_checkpoint

    write_segment(tmp_path / "segment", 40, 40)
    model = create_model("repmode_tiny", depth=5, tile=32, tasks=3)
    wake(model, tasks=3)
    save_checkpoint(
        tmp_path / "r.safetensors",
        model,
        name="repmode_tiny",
        options={"tasks": 3},
        contract=CONTRACT,
        config={"tasks": {"segment": 2, "other": 0}},
    )
    given = (str(tmp_path / "segment"), str(tmp_path / "r.safetensors"))
    for out, task, number in (("own.zarr", None, 2), ("named.zarr", "other", 0), ("number.zarr", "1", 1)):
        assert predict_command(PredictOptions(*given, tmp_path / out, device="cpu", task=task, dtype="float16")) == 0
        assert provenance(tmp_path, out)["task"] == number
    assert (map_of(tmp_path, "own.zarr") != map_of(tmp_path, "named.zarr")).any()
    with pytest.raises(ValueError, match=r"--task 7 is unknown; give one of 2 \(segment\), 0 \(other\)"):
        predict_command(PredictOptions(*given, tmp_path / "no.zarr", device="cpu", task="7"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "map.jpg"}, "must end in .zarr, .tif or .png"),
        ({"num_parts": 2, "part_id": 2}, "ids go from 0"),
        ({"shard": 100}, "a multiple of 256"),
        ({"batch_size": 0}, "--batch-size 0 is not possible"),
        ({"threshold": 2.0}, "a probability from 0 to 1"),
        ({"overlap": 0.95}, "overlap 0.95 is not possible"),
        ({"stride": 100, "overlap": None}, "stride 100 px is not possible"),
        ({"stride": 16}, "--stride and --overlap say the same in two ways"),
        ({"out": "never.tif", "zarr_format": 2}, "--zarr-format 2 is about a .zarr, and never.tif is none"),
        ({"out": "never.png", "dtype": "float16"}, "--dtype float16: never.png holds 8 bits"),
        ({"num_cpus": 2}, "--num-cpus is of ray's workers"),
        ({"part_id": 1}, "say with --num-parts how many there are"),
        ({"region": ("0,10,5",)}, "--region 0,10,5: expected Y0,Y1,X0,X1"),
        ({"region": ("0,301,0,9",)}, "leaves the map of 300×520 px"),
        ({"tile": 17}, "depthcnn_tiny: H 17 px is not possible"),
        ({"layer_start": 3}, "layers 3 to 7 are needed, it has 0 to 4"),
        ({"task": "1"}, "built for one task"),
        ({"voxel_size": "resample", "layer_start": 0}, "leave them out with --voxel-size resample"),
        ({"num_parts": 2, "threshold": 0.5}, "give them to `python -m zoo.predict reduce`"),
        ({"checkpoint": "a.safetensors,none.safetensors"}, "no such checkpoint"),
        ({"mask": Path("nowhere.png")}, "--mask nowhere.png: no such file"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(home: Path, options: dict, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        predict(home, **{"out": "never.zarr", **options})
    assert not list(home.glob("never*"))


@pytest.mark.parametrize("changed", [{"offset": 1}, {"voxel_um": 3.24}])
def test_checkpoints_that_read_differently_are_not_averaged(home: Path, changed: dict) -> None:
    write_checkpoint(home / "c.safetensors", contract=CONTRACT.model_copy(update=changed))
    with pytest.raises(ValueError, match=rf"reads something else than .*a.safetensors \({next(iter(changed))}\)"):
        predict(home, "never.zarr", "a.safetensors,c.safetensors")


def test_what_lies_there_is_not_overwritten(home: Path) -> None:
    (home / "mine_mask.png").write_text("a scan")
    with pytest.raises(FileExistsError, match="mine_mask.png: exists already"):
        predict(home, "mine.zarr", also=("mask",))
    assert (home / "mine_mask.png").read_text() == "a scan"


def test_a_map_is_not_gone_on_with_under_another_mask(home: Path, tmp_path: Path) -> None:
    given = (str(home / "segment"), str(home / "a.safetensors"), tmp_path / "map.zarr")
    for value in (1, 0):
        mask = np.full((300, 520), 255, np.uint8)
        mask[:100] *= value
        Image.fromarray(mask).save(tmp_path / f"{value}.png")
    options = {"device": "cpu", "shard": 256, "overlap": 0.25, "num_parts": 2}
    predict_command(PredictOptions(*given, mask=tmp_path / "1.png", **options))  # pyright: ignore
    with pytest.raises(ValueError, match="begun with another stamp"):
        predict_command(PredictOptions(*given, mask=tmp_path / "0.png", part_id=1, **options))  # pyright: ignore
    predict_command(PredictOptions(*given, mask=tmp_path / "1.png", part_id=1, **options))  # pyright: ignore
    reduce_command(ReduceOptions(tmp_path / "map.zarr"))


def test_a_model_trained_on_degraded_input_predicts_on_it(home: Path, tmp_path: Path) -> None:
    for how in (None, "zmean"):
        write_checkpoint(tmp_path / f"{how}.safetensors", train={"degrade": how})
        options = PredictOptions(
            str(home / "segment"), str(tmp_path / f"{how}.safetensors"), tmp_path / f"{how}.zarr", device="cpu"
        )
        predict_command(options)
    assert (map_of(tmp_path, "None.zarr") != map_of(tmp_path, "zmean.zarr")).any()


def test_a_mistake_on_the_command_line_is_one_line(home: Path) -> None:
    command = [sys.executable, "-m", "zoo.predict", str(home / "nothing"), str(home / "a.safetensors"), "x.zarr"]
    done = subprocess.run(
        command, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nothing: no such path" in done.stderr


@pytest.mark.slow
def test_torchrun_shares_a_map_out_and_puts_it_together(home: Path) -> None:
    predict(home, "alone.zarr")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["zoo.predict", str(home / "segment"), str(home / "a.safetensors"), str(home / "shared.zarr")]
    command += ["--device", "cpu", "--shard", "256", "--overlap", "0.25"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert tree(home / "alone.zarr") == tree(home / "shared.zarr")


def test_the_plan_lies_beside_an_unfinished_map(home: Path) -> None:
    predict(home, "open.zarr", num_parts=2, part_id=0)
    plan = json.loads((home / "open.zarr.partial/.inkzoo/plan.json").read_text())
    assert plan["shape"] == [300, 520]
    assert not (home / "open.zarr").exists()


def test_batch_and_precision_are_for_the_gpus_of_a_cluster_whose_head_has_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU of its own")
    asked: list[str] = []

    def send_here(work: Callable, pieces: list, workers: Workers, *, on_answer: Callable, **_: object) -> None:
        for number, piece in enumerate(pieces):
            on_answer(number, work(piece))

    def choose(job: Job) -> tuple[Plan, float]:
        asked.append(job.plan.path)
        return job.plan.model_copy(update={"precision": "bf16"}), 0.001

    monkeypatch.setattr("zoo.predict.command.worker_device", lambda name, cpus: "cuda:0")
    monkeypatch.setattr("zoo.predict.cluster.connected", contextlib.nullcontext)
    monkeypatch.setattr("zoo.predict.cluster.find_workers", lambda device, cpus: Workers(2, cpus, gpu=False))
    monkeypatch.setattr("zoo.predict.cluster.send", send_here)
    monkeypatch.setattr("zoo.predict.job.Job.choose_precision", choose)
    assert predict(home, "headless.zarr", engine="ray", device="auto") == 0
    said = provenance(home, "headless.zarr")
    assert (said["batch_size"], said["precision"]) == (32, "bf16")
    assert asked == [str(home / "segment")], "a worker's choice, not that of this machine's CPU"
    assert map_of(home, "headless.zarr").std() > 1


def test_half_precision_is_refused_on_a_cpu(home: Path) -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        predict(home, "never.zarr", precision="fp16")


def test_another_number_of_parts_is_said_and_loses_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(home, "whole.zarr")
    for part in (0, 3):
        predict(home, "redone.zarr", num_parts=4, part_id=part)
    capsys.readouterr()
    predict(home, "redone.zarr", num_parts=3, part_id=0)
    told = capsys.readouterr().err
    assert "it was shared out in 4 parts, and is in 3 parts from here on: 1 of the 2 shards of part 0 are done" in told
    predict(home, "redone.zarr", num_parts=3, part_id=2)
    assert "it was shared out" not in capsys.readouterr().err, "it is said once"
    with pytest.raises(ValueError, match=r"of part 1 \(2 shards\); make them with --num-parts 3 --part-id 1"):
        reduce_command(ReduceOptions(home / "redone.zarr"))
    predict(home, "redone.zarr")
    told = capsys.readouterr().err
    assert "it was shared out in 3 parts, and is in 1 part from here on: 4 of the 6 shards are done already" in told
    assert tree(home / "redone.zarr") == tree(home / "whole.zarr")


def test_a_map_that_is_not_there_is_not_put_together(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="never.zarr: no such map, and none was begun"):
        reduce_command(ReduceOptions(home / "never.zarr"))
    predict(home, "half.zarr", num_parts=2)
    with pytest.raises(ValueError, match="half.zarr is not finished: 3 of 6"):
        reduce_command(ReduceOptions(home / "half.zarr.partial"))


def test_a_region_is_that_of_the_whole_map_and_the_rest_is_0(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(home, "all.zarr")
    regions = ("10,20,300,400", "200,260,0,30")
    predict(home, "some.zarr", region=regions, num_parts=2, part_id=1)
    with pytest.raises(ValueError, match=r"1 of 6 shards are missing, of part 0 \(1 shard\)"):
        reduce_command(ReduceOptions(home / "some.zarr"))
    with pytest.raises(ValueError, match="begun with another region"):
        predict(home, "some.zarr")
    predict(home, "some.zarr", region=regions, num_parts=2, part_id=0)
    told = capsys.readouterr().err
    assert "rows 0 to 255, columns 256 to 511" in told and "the map is 0 elsewhere" in told
    reduce_command(ReduceOptions(home / "some.zarr"))
    assert provenance(home, "some.zarr")["region"] == [[0, 256, 256, 512], [0, 300, 0, 256]]
    expected = map_of(home, "all.zarr")
    expected[:256, 512:] = expected[256:, 256:] = 0
    assert np.array_equal(map_of(home, "some.zarr"), expected) and expected[:256, 256:512].std() > 1
