"""The same command under torchrun: many processes take the steps of one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from zoo import create_model
from zoo.checkpoint import load_checkpoint, read_info
from zoo.models.base import Heads, InkModel
from zoo.train import state
from zoo.train.batches import Batches
from zoo.train.engine import shard, tied
from zoo.train.log import read_log

Log = list[dict[str, float]]
PLAIN = "plain_model:build_plain"
TINY = ("depthcnn_tiny", "sam_tiny", "unet3plus_tiny", "repmode_tiny")
SETTINGS = {
    "plain": "{sample_losses: true, loss: {bce: 1, dice: 1}, log_every: 1, checkpoint_steps: 4}",
    "micro": "{sample_losses: true, loss: {bce: 1, dice: 1}, log_every: 1, micro_batch: 4}",
    "ink": "{augment: ink, micro_batch: 2, log_every: 1, channels_last: false}",
    "no_iou": "{augment: null, loss: {bce: 1, iou: 0}, log_every: 1}",
    "finest": "{augment: null, loss: ms_ssim, log_every: 1}",
    "dying": "{augment: null, loss: {bce: 1}, log_every: 1, checkpoint_steps: 2, validate_every: 2}",
}


def options(out: str, model: str, settings: str, *more: str, side: int = 32, steps: int = 6) -> str:
    data = ["--data", "phantom:dipole:3:192x320", "--tile", str(side), "--depth", "5", "--samples", "64"]
    size = ["--batch-size", "6", "--steps", str(steps), "--precision", "fp32", "--device", "cpu"]
    return shlex.join([model, "--out", out, *data, *size, "--config", f"{settings}.yaml", *more])


def run(folder: Path, *lines: str, processes: int = 1) -> None:
    """Train with each line of options, one after another."""
    for name, settings in SETTINGS.items():
        (folder / f"{name}.yaml").write_text(settings)
    lines_file = folder / f"{processes}-{len(list(folder.iterdir()))}.txt"
    lines_file.write_text("\n".join(lines))
    root, here = Path(__file__).resolve().parents[2], Path(__file__).parent
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(here)]),
        "INKZOO_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(here / "one_after_another.py"), str(lines_file)],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def alone(home: Path) -> Log:
    run(home, options("alone", PLAIN, "plain"), options("micro", PLAIN, "micro"))
    return read_log(home / "alone/log.jsonl")


@pytest.fixture(scope="module")
def ddp(home: Path) -> Path:
    run(
        home,
        options("ddp", PLAIN, "plain"),
        options("ink", "depthcnn_tiny", "ink", steps=2),
        options("no_iou", "sam_tiny", "no_iou", steps=3),
        options("finest", "unet3plus_tiny", "finest", steps=3),
        processes=2,
    )
    return home


@pytest.fixture(scope="module")
def fsdp(home: Path) -> Path:
    run(
        home,
        options("fsdp", PLAIN, "plain", "--parallel", "fsdp"),
        options("unmoved", "tests.zoo.unmoved_model:build_plain", "plain", "--parallel", "fsdp"),
        *(
            options(f"{model}-{parallel}", model, "ink", "--parallel", parallel, steps=3)
            for model in TINY
            for parallel in ("ddp", "fsdp")
        ),
        processes=2,
    )
    return home


def assert_same_curve(one: Log, two: Log) -> None:
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6]
    for expected, line in zip(one, two, strict=True):
        for key in ("loss", "bce", "dice", "grad_norm"):
            assert line[key] == pytest.approx(expected[key], abs=1e-5), (line["step"], key)


def test_two_processes_give_the_loss_curve_of_one(ddp: Path, alone: Log) -> None:
    assert_same_curve(alone, read_log(ddp / "ddp/log.jsonl"))
    assert read_info(ddp / "ddp/last.safetensors")["name"] == PLAIN


@pytest.mark.slow
def test_two_processes_that_share_a_model_give_the_loss_curve_of_one(fsdp: Path, alone: Log) -> None:
    assert_same_curve(alone, read_log(fsdp / "fsdp/log.jsonl"))
    assert read_info(fsdp / "fsdp/last.safetensors")["name"] == PLAIN


@pytest.mark.slow
def test_a_model_that_is_shared_out_is_never_put_on_a_device_as_a_whole(fsdp: Path, alone: Log) -> None:
    assert_same_curve(alone, read_log(fsdp / "unmoved/log.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("model", TINY)
def test_a_shared_model_of_each_family_takes_the_steps_of_a_whole_one(fsdp: Path, model: str) -> None:
    whole, shared = (read_log(fsdp / f"{model}-{parallel}/log.jsonl") for parallel in ("ddp", "fsdp"))
    assert [line["step"] for line in shared] == [1, 2, 3]
    assert shared[0]["loss"] == pytest.approx(whole[0]["loss"], abs=1e-5)
    for one, two in zip(whole, shared, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-3)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
    loaded = [load_checkpoint(fsdp / f"{model}-{parallel}/last.safetensors").model for parallel in ("ddp", "fsdp")]
    tile = torch.randn(1, 1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (loaded[0](tile) - loaded[1](tile)).abs().max() < 1e-2


def test_batch_norm_augmentation_and_micro_batches_train_on_two_processes(ddp: Path) -> None:
    lines = read_log(ddp / "ink/log.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["loss"] < 10 for line in lines)
    loaded = load_checkpoint(ddp / "ink/last.safetensors")
    assert loaded.model(torch.randn(1, 1, 5, 32, 32)).isfinite().all()
    assert any((buffer != 0).any() for name, buffer in loaded.model.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("out", ["no_iou", "finest"])
def test_what_the_loss_does_not_read_keeps_no_process_waiting(ddp: Path, out: str) -> None:
    assert [line["step"] for line in read_log(ddp / out / "log.jsonl")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_that_is_gone_on_with_ends_as_one_that_was_not_stopped(home: Path, parallel: str) -> None:
    outs, more = (f"through-{parallel}", f"stopped-{parallel}"), ("--parallel", parallel, "--fold", "0")
    through, killed = (options(out, "depthcnn_tiny", "dying", *more) for out in outs)
    with pytest.raises(AssertionError, match="exitcode *: 9"):
        run(home, through, "--die-at 5", killed, processes=2)
    assert [path.name for path in sorted((home / outs[1] / "state").glob("*"))] == [
        "step-000000002.safetensors",
        "step-000000004.safetensors",
    ]
    run(home, killed + " --resume", processes=2)
    whole, stopped = (load_checkpoint(home / out / "last.safetensors").model for out in outs)
    for (name, one), two in zip(whole.named_parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_batch_is_shared_without_overlap() -> None:
    whole, parts = Batches(50, 6, seed=1), [iter(Batches(50, 6, seed=1, rank=rank, processes=3)) for rank in range(3)]
    for batch, *shares in zip((b for b, _ in zip(whole, range(20), strict=False)), *parts, strict=False):
        assert sorted(row for share in shares for row in share) == sorted(batch)
        assert all(len(share) == 2 for share in shares)


def test_micro_batches_give_the_loss_curve_of_the_whole_batch(home: Path, alone: Log) -> None:
    for one, two in zip(alone, read_log(home / "micro/log.jsonl"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_tied_heads_have_gradients_of_zero_where_nothing_reads_them() -> None:
    read, unread, constant = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2)
    heads = tied(Heads([read * 2], {"iou": unread * 3, "gates": constant}))
    heads.logits[0].sum().backward()
    assert read.grad is not None and unread.grad is not None
    assert read.grad.tolist() == [2, 2] and unread.grad.tolist() == [0, 0]
    assert heads.aux["gates"].equal(constant)


@pytest.fixture(scope="module")
def mesh(home: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{home}/alone-in-its-group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def step(model: InkModel, volume: Tensor) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Logits, and gradients of what all heads say together."""
    torch.manual_seed(1)
    heads = model.heads(volume)
    sum(tensor.square().mean() for tensor in (*heads.logits, *heads.aux.values())).backward()  # pyright: ignore
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return [logits.detach() for logits in heads.logits], gradients


OTHERS = ("unet3plus_enhanced_glu_tiny", "elunet_tiny", "zbest", "monai_segresnet")
CHECKPOINTING = ("sam_tiny", "unet3plus_tiny", "repmode_tiny", "elunet_tiny")


@pytest.mark.parametrize(
    ("name", "again"), [*((name, False) for name in (*TINY, *OTHERS)), *((name, True) for name in CHECKPOINTING)]
)
def test_a_sharded_model_has_the_answers_and_gradients_of_a_whole_one(mesh: DeviceMesh, name: str, again: bool) -> None:
    torch.manual_seed(0)
    whole, sharded = (create_model(name, depth=4, tile=64) for _ in range(2))
    sharded.load_state_dict(whole.state_dict())
    whole.set_grad_checkpointing(again)
    sharded.set_grad_checkpointing(again)
    volume = torch.randn(2, 1, 4, 64, 64)
    expected, gradients = step(whole.train(), volume)
    answers, of_shards = step(shard(sharded.train(), mesh), volume)
    assert all(one.equal(two) for one, two in zip(expected, answers, strict=True))
    for key, gradient in gradients.items():
        own = of_shards[key]
        assert (own is None) == (gradient is None), key
        if gradient is not None:
            assert torch.allclose(own.full_tensor(), gradient, atol=1e-6), key  # pyright: ignore
    with torch.no_grad():
        sharded.eval()(volume)
    assert all(hasattr(parameter, "full_tensor") for parameter in sharded.parameters()), "whole after evaluation"
    sharded.train().heads(volume)
    assert all(hasattr(parameter, "full_tensor") for parameter in sharded.parameters()), "whole after a forward pass"


class OnDevice:
    """Stands for a gathered tensor that is not in main memory."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def cpu(self) -> Tensor:
        return self.tensor


@pytest.mark.parametrize("write", [True, False])
def test_saving_a_sharded_model_gathers_one_tensor_at_a_time_and_keeps_them_where_they_are_written(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    gather, whole, alive = state.in_full, [], []

    def watched(tensor: Tensor) -> OnDevice:
        alive.append(sum(reference() is not None for reference in whole))
        full = OnDevice(gather(tensor))
        whole.append(weakref.ref(full))
        return full

    model = shard(create_model("tests.zoo.plain_model:build_plain", depth=4, tile=32), mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    monkeypatch.setattr(state, "in_full", watched)
    path = state.save_state(tmp_path, model, optimizer, None, state.Counters(), {}, write=write)
    assert len(alive) > 3 and set(alive) == {0}
    assert path.exists() == write


@pytest.mark.parametrize(
    ("name", "most"), [("sam_vit_h", 0.05), ("sam_vit_b", 0.15), ("repmode_base", 0.5), ("unet3plus_base", 0.7)]
)
def test_no_device_holds_much_of_a_large_model_whole(name: str, most: float) -> None:
    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        model = create_model(name, depth=16, tile=256)
    units = [size(unit) for unit in model.shard_units()]
    at_once = max(units) + size(model) - sum(units)
    assert at_once < most * size(model)
