"""The planner of training batches: which choice comes out of which measurements, and one real measurement."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import torch

from tests.zoo.test_train_command import options, refused, write_fragment
from zoo import create_model
from zoo.checkpoint import read_info
from zoo.memory import OutOfMemoryError, anonymous_bytes, state_bytes
from zoo.models.base import InkModel
from zoo.train import plan, probe
from zoo.train.command import train_command
from zoo.train.config import TrainConfig, load_train_config
from zoo.train.loop import train
from zoo.train.plan import DoesNotFit, Measure, Plan, even_parts, fit, keep, parse_size, plan_batches, recall, room

CPU = torch.device("cpu")
PLAIN = "tests.zoo.plain_model:build_plain"


def memory(fixed: int, tile: int, *, augmentation: int = 0, checkpointed: float = 0.3, half: float = 0.5):
    """A device on which a training takes `fixed` and `tile` for each tile at once, and augmentation for the batch."""
    tried: list[tuple[int, bool, str]] = []

    def measure(config: TrainConfig, limit: int) -> int | None:
        at_once = config.micro_batch or config.batch_size
        tried.append((at_once, config.grad_checkpointing, config.precision))
        share = (checkpointed if config.grad_checkpointing else 1) * (half if config.precision == "bf16" else 1)
        peak = max(fixed + int(at_once * tile * share), augmentation * config.batch_size)
        return peak if peak <= limit else None

    return measure, tried


def chosen(
    measure: Measure, budget: int, *, can_checkpoint: bool = True, half=None, **settings
) -> tuple[int | None, bool, str, int]:
    found = fit(
        load_train_config(**{"batch_size": 24, **settings}), budget, measure, can_checkpoint=can_checkpoint, half=half
    )
    assert found.config.batch_size == settings.get("batch_size", 24), "the effective batch is kept"
    return found.config.micro_batch, found.config.grad_checkpointing, found.config.precision, found.peak_bytes


def test_what_fits_at_once_is_measured_once_and_taken() -> None:
    measure, tried = memory(100, 10)
    assert chosen(measure, 400) == (24, False, "auto", 340)
    assert tried == [(24, False, "auto")]


def test_a_tenth_of_the_budget_stays_free() -> None:
    measure, _ = memory(100, 10)
    assert chosen(measure, 378)[0] == 24  # nine tenths of it are 340
    assert chosen(measure, 377)[0] == 12


@pytest.mark.parametrize(("budget", "at_once"), [(377, 12), (245, 12), (244, 8), (200, 8), (199, 6), (160, 4)])
def test_the_largest_even_part_that_fits_is_found_in_few_measurements(budget: int, at_once: int) -> None:
    measure, tried = memory(100, 10)
    assert chosen(measure, budget) == (at_once, False, "auto", 100 + 10 * at_once)
    assert len(tried) <= 5, tried


def test_checkpointing_comes_before_very_few_tiles_at_once() -> None:
    measure, _ = memory(100, 10)
    assert chosen(measure, 145) == (8, True, "auto", 124)  # 3 without
    assert chosen(measure, 145, can_checkpoint=False) == (3, False, "auto", 130)


def test_checkpointing_that_allows_no_more_tiles_is_not_taken() -> None:
    measure, _ = memory(100, 10, checkpointed=1.0)
    assert chosen(measure, 145) == (3, False, "auto", 130)


def test_half_precision_is_the_last_way() -> None:
    measure, _ = memory(100, 40, checkpointed=0.9)
    assert chosen(measure, 145, half="bf16") == (1, False, "bf16", 120)
    assert chosen(measure, 152, half="bf16") == (1, True, "auto", 136)


def test_memory_that_does_not_depend_on_the_part_is_seen() -> None:
    measure, _ = memory(10, 10, augmentation=5)  # 120 for the batch, whatever is computed at once
    assert chosen(measure, 140) == (8, False, "auto", 120)


def test_settings_that_were_given_are_kept_to() -> None:
    measure, tried = memory(100, 10)
    assert chosen(measure, 10_000, micro_batch=6)[0] == 6
    assert chosen(measure, 145, grad_checkpointing=True)[:2] == (8, True)
    assert {checkpointing for _, checkpointing, _ in tried[1:]} == {True}
    assert chosen(measure, 120, batch_size=2, grad_checkpointing=True)[0] == 2


def test_nothing_fits_and_the_least_is_named() -> None:
    measure, _ = memory(100, 40)
    with pytest.raises(DoesNotFit) as caught:
        chosen(measure, 110, half="bf16")
    least = caught.value.least
    assert (least.micro_batch, least.grad_checkpointing, least.precision) == (1, True, "bf16")


def test_parts_of_a_batch_are_even() -> None:
    assert even_parts(24) == [24, 12, 8, 6, 5, 4, 3, 2, 1]
    assert even_parts(24, most=7) == [6, 5, 4, 3, 2, 1]
    assert even_parts(1) == [1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GB", 12 * 10**9), ("12 GiB", 12 * 2**30), ("12000MB", 12 * 10**9), ("1.5gb", 15 * 10**8), ("512MiB", 2**29)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["12", "GB", "0GB", "-1GB", "12 parsecs", "12GB!", "lots", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 12GB"):
        parse_size(text)


def plain() -> InkModel:
    return create_model(PLAIN, depth=8, tile=64)


def test_a_budget_must_be_of_the_device_and_there() -> None:
    model = plain()
    assert room(None, None, model, CPU) is None
    with pytest.raises(ValueError, match=r"--vram 12GB: training is on cpu; use --ram"):
        room("12GB", None, model, CPU)
    with pytest.raises(ValueError, match=r"--ram free: training is on cuda:0; use --vram"):
        room(None, "free", model, torch.device("cuda", 0))
    with pytest.raises(ValueError, match=r"--ram 900TB: only .* are free"):
        room(None, "900TB", model, CPU)
    with pytest.raises(ValueError, match=r"--ram 1MB: Python and its libraries alone hold"):
        room(None, "1MB", model, CPU)


def test_what_the_process_holds_already_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain()
    monkeypatch.setattr(plan, "_free_ram", lambda: 10**10)
    assert room(None, "free", model, CPU) == 10**10 + state_bytes(model)
    left = room(None, "8GB", model, CPU)
    assert left is not None
    assert abs(left - (8 * 10**9 - anonymous_bytes() + state_bytes(model))) < 5e7


def test_several_processes_are_not_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"plans for one process, and this is one of 2"):
        room(None, "free", plain(), CPU)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_CGROUP", tmp_path)
    machine = plan._free_ram()
    assert machine > 0
    for file, text in (("max", "1000000"), ("current", "700000"), ("stat", "anon 500000\ninactive_file 200000\n")):
        (tmp_path / f"memory.{file}").write_text(text)
    assert plan._free_ram() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert plan._free_ram() > 500_000


def test_what_was_chosen_and_what_is_expected_is_told() -> None:
    config = load_train_config(batch_size=24, micro_batch=8, precision="fp32", ema=0.9)
    chosen, expected, changed = plan.told(Plan(config, 3 * 10**9), plain(), CPU)
    assert chosen == (
        "planned: 8 tiles at once, 3 times a step, for 24 tiles a step as before, in fp32, "
        "without activation checkpointing"
    )
    assert expected.startswith("expected peak: 3.00 GB, measured over 12 steps (weights ")
    for part in ("gradients", "optimizer", "averaged weights", "batch 3 MB", "activations and workspace 3.00 GB"):
        assert part in expected
    assert changed == (
        "not exactly the objective of all tiles at once: losses (such as Dice, and all where parts differ in "
        "supervised pixels) are of a part's tiles"
    )
    exact = config.model_copy(update={"sample_losses": True})
    assert len(plan.told(Plan(exact, 10**9), plain(), CPU)) == 2
    normed = create_model("depthcnn_tiny", depth=4, tile=32)
    assert plan.told(Plan(exact, 10**9), normed, CPU)[2].endswith("BatchNorm's averages are of a part's tiles")
    assert len(plan.told(Plan(config.model_copy(update={"micro_batch": 24}), 10**9), normed, CPU)) == 2


def test_the_command_trains_as_planned_and_a_resumed_run_as_before(tmp_path: Path, capsys, monkeypatch) -> None:
    scrap, out = write_fragment(tmp_path / "scrap"), tmp_path / "out"
    measure, tried = memory(0, 10**8)
    monkeypatch.setattr(plan, "_free_ram", lambda: 10**9)
    monkeypatch.setattr(probe, "measure", lambda given: measure(given.config, given.limit))
    given = options(scrap, out=out, batch_size=16, ram="free")
    assert train_command(given) == 0
    assert "planned: 8 tiles at once, 2 times a step, for 16 tiles a step as before" in capsys.readouterr().err
    assert read_info(out / "last.safetensors")["config"]["train"]["micro_batch"] == 8
    monkeypatch.setattr(probe, "measure", lambda given: pytest.fail("a resumed run was planned anew"))
    there = (out / "plan.json").read_bytes()
    assert "holds a run that has ended" in refused(given, capsys)
    assert (out / "plan.json").read_bytes() == there, "a run that is refused leaves the plan of the one that is there"
    for again in ({"ram": "free"}, {}):
        assert train_command(options(scrap, out=out, batch_size=16, resume=True, **again)) == 0
    (out / "finished.json").unlink()  # stopped before its first state, and gone on with without --ram
    assert train_command(options(scrap, out=out, batch_size=16, resume=True)) == 0
    assert read_info(out / "last.safetensors")["config"]["train"]["micro_batch"] == 8
    assert train_command(options(scrap, out=out, batch_size=16, overwrite=True)) == 0
    assert read_info(out / "last.safetensors")["config"]["train"]["micro_batch"] is None, "no plan of an earlier run"
    told = refused(options(scrap, out=tmp_path / "other", ram="much"), capsys)
    assert "got 'much' as a size of memory" in told
    monkeypatch.undo()
    assert tried


def test_a_plan_is_recalled_as_it_was_made(tmp_path: Path) -> None:
    asked = load_train_config(batch_size=24)
    assert recall(asked, tmp_path) is None
    planned = asked.model_copy(update={"micro_batch": 5, "grad_checkpointing": True, "precision": "bf16"})
    keep(planned, tmp_path)
    assert recall(asked, tmp_path) == planned
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    keep(planned, tmp_path, "8GB")
    said: list[str] = []
    for given in (None, "8GB"):
        assert recall(asked, tmp_path, said.append, given=given) == planned
    assert not said
    assert recall(asked, tmp_path, said.append, given="4GB") is None
    assert said == ["the run was planned for 8GB, and 4GB is given now: it is planned anew"]
    plan.forget(tmp_path)
    assert recall(asked, tmp_path) is None


def test_another_size_for_a_resumed_run_wins_over_the_one_it_was_planned_for(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    scrap, out = write_fragment(tmp_path / "scrap"), tmp_path / "out"
    measure, _ = memory(0, 10**8)
    monkeypatch.setattr(plan, "_free_ram", lambda: 10**9)
    monkeypatch.setattr(probe, "measure", lambda given: measure(given.config, given.limit))
    monkeypatch.setattr(plan, "anonymous_bytes", lambda: 10**8)
    assert train_command(options(scrap, out=out, batch_size=16, ram="free")) == 0
    (out / "finished.json").unlink()  # as if it had been stopped before its first state
    assert train_command(options(scrap, out=out, batch_size=16, ram="600MB", resume=True)) == 0
    assert "the run was planned for free, and 600MB is given now: it is planned anew" in capsys.readouterr().err
    assert read_info(out / "last.safetensors")["config"]["train"]["micro_batch"] == 4


@pytest.mark.parametrize("damage", ['{"micro_batch": 4', "[]", '{"micro_batch": 4}', '{"precision": 3}', "\x00"])
def test_a_damaged_plan_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    asked, said = load_train_config(batch_size=24), []
    keep(asked, tmp_path)
    (tmp_path / "plan.json").write_text(damage)
    assert recall(asked, tmp_path, said.append) is None
    assert said == [f"{tmp_path / 'plan.json'}: damaged, or not a plan; it is passed over"]


def test_a_gpus_context_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, _ = memory(0, 10**8)
    given = load_train_config(batch_size=24)
    assert fit(given, 3 * 10**9, measure, can_checkpoint=True, half=None).config.micro_batch == 24
    assert fit(given, 3 * 10**9, measure, can_checkpoint=False, half=None, spare=7 * 10**8).config.micro_batch == 12
    held: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: held.append(share))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10**10))
    for budget, device in ((None, torch.device("cuda", 0)), (3 * 10**9, CPU)):
        with plan.held_to(budget, device):
            assert not held
    with plan.held_to(3 * 10**9, torch.device("cuda", 0)):
        assert held == [0.25]
    assert held == [0.25, 1.0]


def test_the_probe_is_given_options_classes_and_tasks_but_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[probe.Probe] = []
    monkeypatch.setattr(plan, "_free_ram", lambda: 10**10)
    monkeypatch.setattr(probe, "measure", lambda given: asked.append(given) or 10**6)
    model = create_model("smp_unet", depth=4, tile=64, classes=3, reduction="mean")
    options_ = {"reduction": "mean", "weights": "imagenet"}
    config = load_train_config(batch_size=2)
    plan_batches(model, config, 10**9, device=CPU, name="smp_unet", options=options_, tasks=2)
    assert (asked[0].options, asked[0].classes, asked[0].tasks) == ({"reduction": "mean"}, 3, 2)


def test_the_probes_tiles_are_of_every_task_and_class() -> None:
    tiles = probe.noise(4, 32, 6, seed=0, classes=3, tasks=2)
    assert sorted(tiles[row]["task"] for row in range(6)) == [0, 0, 0, 1, 1, 1]
    assert {int(value) for row in range(6) for value in tiles[row]["label"].unique()} == {0, 1, 2}
    assert "task" not in probe.noise(4, 32, 6, seed=0)[0]


def test_what_does_not_fit_says_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, _ = memory(0, 9 * 10**8)
    monkeypatch.setattr(plan, "_free_ram", lambda: 10**10)
    monkeypatch.setattr(probe, "measure", lambda given: measure(given.config, given.limit))
    config, said = load_train_config(batch_size=4, precision="fp32"), []
    with pytest.raises(ValueError, match=r"8 layers of 64 px does not fit into 500 MB") as caught:
        plan_batches(plain(), config, 5 * 10**8, device=CPU, name=PLAIN, say=said.append)
    how = "in fp32, without activation checkpointing"
    assert said[0].startswith("measuring what fits into 500 MB")
    assert said[1:] == [f"trying {tiles} at once, {how}" for tiles in ("4 tiles", "1 tile", "1 tile")]
    assert "one tile at a time in fp32, without activation checkpointing, takes 900 MB" in str(caught.value)
    for advice in ("--tile", "--depth", "--batch-size", "--precision bf16", "or give --ram "):
        assert advice in str(caught.value)


def test_a_real_training_is_measured_and_stopped_at_its_limit() -> None:
    config = load_train_config(batch_size=6, loss="bce", precision="fp32", augment=None)
    asked = probe.Probe(model=PLAIN, depth=8, tile=256, device="cpu", config=config, limit=10**9)
    peak = probe.measure(asked)
    assert peak is not None
    kept = 4 * 8 * 256**2 * 4  # what each tile leaves for the backward pass: two maps of 8 channels, each twice
    batch = 4 * 8 * 256**2
    assert 6 * (kept + batch) < peak < 6 * 3 * (kept + batch)
    assert probe.measure(asked.model_copy(update={"limit": peak // 2 - probe._LOADING})) is None


def test_how_a_probe_ends_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = probe.Probe(model=PLAIN, depth=8, tile=64, device="cpu", config=load_train_config(), limit=10**9)

    def ends(code: int, out: str = "", said: str = "") -> None:
        monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: CompletedProcess([], code, out, said))

    ends(0, "a library greets\n123\n")
    assert probe.measure(asked) == 123
    ends(0, "null\n")
    assert probe.measure(asked) is None
    ends(-9)  # the system killed it for memory
    assert probe.measure(asked) is None
    ends(1, said="Traceback …\nValueError: unknown loss 'bice'\n")
    with pytest.raises(RuntimeError, match=r"a training of .*plain could not be measured: ValueError: unknown loss"):
        probe.measure(asked)


def test_a_smaller_micro_batch_on_the_way_is_beyond_the_limit(tmp_path: Path, monkeypatch) -> None:
    def trained(*_, say, **__):
        say("out of memory in step 1: going on with 2 tiles at once")

    monkeypatch.setattr(probe, "train", trained)
    asked = probe.Probe(
        model=PLAIN, depth=8, tile=64, device="cpu", config=load_train_config(batch_size=4), limit=10**12
    )
    assert probe.run(asked, tmp_path) is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "tile"), [("repmode_tiny", 96), ("sam_tiny", 96), ("depthcnn_tiny", 96), ("unet3plus_tiny", 96)]
)
def test_on_a_gpu_the_peak_is_as_planned(name: str, tile: int, tmp_path: Path) -> None:
    device, depth = torch.device("cuda", 0), 16
    model = create_model(name, depth=depth, tile=tile)
    config = load_train_config(batch_size=16, steps=10)
    planned = plan_batches(model, config, 2 * 10**9, device=device, name=name)
    tiles = probe.noise(depth, tile, 32, seed=1)
    done = train(model, tiles, planned.config, device=device, out=tmp_path, say=_never)
    assert abs(planned.peak_bytes / done.peak_bytes - 1) < 0.1
    assert done.peak_reserved is not None
    assert done.peak_reserved <= 2 * 10**9


def _never(line: str) -> None:
    raise OutOfMemoryError(line)
