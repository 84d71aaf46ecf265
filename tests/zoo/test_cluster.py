"""Maps and benches on a Ray cluster of several nodes, which all run on this machine: Ray's own fixture for tests."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from data_recipes.fragment import open_fragments
from tests.zoo.gated_model import GATE, NO_MEMORY, build_gated
from tests.zoo.segments import CONTRACT, DEPTH, TILE, tree, write_segment
from zoo.bench.cluster import run_all_on_cluster
from zoo.bench.plan import plan_runs, resolve_models
from zoo.bench.runner import LEDGER, run_all
from zoo.bench.suite import ModelEntry, Suite
from zoo.checkpoint import save_checkpoint
from zoo.cluster import LOSSES, LostError, Workers, connected, find_workers, send
from zoo.memory import OutOfMemoryError
from zoo.predict.__main__ import PredictOptions
from zoo.predict.cluster import PIECES, cut
from zoo.predict.command import predict_command
from zoo.predict.store import MapStore

SHARDS = 16
PATIENCE = 240.0  # seconds: starting a worker takes a loaded machine long


class Home:
    """A folder with a segment of 4×4 shards, a checkpoint and the map that one process makes of them."""

    def __init__(self, folder: Path):
        self.folder, self.gate = folder, folder / "gate"
        write_segment(folder / "segment", 1000, 1000)
        torch.manual_seed(0)
        model = build_gated(depth=DEPTH, tile=TILE)
        name = "tests.zoo.gated_model:build_gated"
        save_checkpoint(folder / "a.safetensors", model, name=name, options={}, contract=CONTRACT, config={})
        self.predict("local.zarr")

    def predict(self, out: str, **changed: Any) -> None:
        """One batch a shard: no tile touches two of them."""
        options = {"shard": 256, "overlap": 0.0, "batch_size": 64, "device": "cpu", "precision": "fp32", **changed}
        said = str(self.folder / "segment"), str(self.folder / "a.safetensors"), self.folder / out
        assert predict_command(PredictOptions(*said, **options)) == 0

    def done(self, out: str) -> int:
        folder = self.folder / f"{out}.partial/.inkzoo/done"
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def once(self, out: str, done: int, act: Callable[[], object]) -> threading.Thread:
        """Act from another thread as soon as so many shards are done."""

        def wait() -> None:
            until = time.monotonic() + PATIENCE
            while self.done(out) < done and time.monotonic() < until:
                time.sleep(0.05)
            act()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def cluster(home: Home) -> Iterator[Any]:
    """A cluster of one node with one CPU. Tests that lose a node add the one that they lose."""
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATE, str(home.gate))  # what the nodes' processes inherit
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("INKZOO_CACHE", str(home.folder / "cache-of-nodes"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        import ray
        from ray._private import services
        from ray.cluster_utils import Cluster

        patch.setattr(services, "get_node", patient(services.get_node))
        made = Cluster(initialize_head=True, head_node_args=node())
        patch.setenv("RAY_ADDRESS", str(made.address))
        patch.delenv(GATE)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a new node 30 s to appear, in which a loaded machine has not even imported it."""

    def again(*arguments: object) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return again


def node() -> dict[str, Any]:
    """One CPU. With ports of its own it does not wait for its helpers, which on a loaded machine it gives up on."""
    names = ("metrics_agent_port", "runtime_env_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in names]
        for one in taken:
            one.bind(("", 0))
        ports = {name: one.getsockname()[1] for name, one in zip(names, taken, strict=True)}
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False, **ports}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_map_whose_node_dies_midway_is_byte_for_byte_that_of_one_process(
    home: Home, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(GATE, str(home.gate))
        victim = cluster.add_node(**node())
    seen: list[int] = []

    def kill() -> None:  # when each of the two nodes has made a shard and stands before its second one
        seen.append(home.done("ray.zarr"))
        workers = psutil.Process(victim.all_processes["raylet"][0].process.pid).children(recursive=True)
        cluster.remove_node(victim, allow_graceful=False)
        for worker in workers:  # they would end by themselves, too, a second later
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers)
        home.gate.touch()

    killer = home.once("ray.zarr", 2, kill)
    try:
        home.predict("ray.zarr", engine="ray")
    finally:
        killer.join()
        home.gate.unlink()
    told = capsys.readouterr().err
    assert seen == [2]
    assert f"{SHARDS} shards in {2 * PIECES} pieces to 2 workers with 1 CPU each" in told
    assert told.count("lost with a worker whose node died") == 1
    assert tree(home.folder / "ray.zarr") == tree(home.folder / "local.zarr")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    home: Home, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupter = home.once("cut.zarr", 1, functools.partial(os.kill, os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        home.predict("cut.zarr", engine="ray")
    interrupter.join()
    assert "the same command goes on" in capsys.readouterr().err
    assert len(MapStore.resume(home.folder / "cut.zarr.partial").missing()) == SHARDS - 1
    home.gate.touch()
    try:
        home.predict("cut.zarr", engine="ray")
    finally:
        home.gate.unlink()
    assert tree(home.folder / "cut.zarr") == tree(home.folder / "local.zarr")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_workers_lack_of_memory_is_one_message_and_not_tried_again(
    home: Home, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home.gate.write_text(NO_MEMORY)
    try:
        with pytest.raises(OutOfMemoryError, match="out of main memory in predicting"):
            home.predict("full.zarr", engine="ray")
    finally:
        home.gate.unlink()
    assert "sent again" not in capsys.readouterr().err
    assert home.done("full.zarr") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_piece_that_kills_its_worker_every_time_is_given_up_and_the_others_are_done(cluster: Any) -> None:
    said: list[str] = []
    answers: dict[int, str] = {}
    errors: dict[int, Exception] = {}
    with connected():
        send(
            work,
            ["fine", "deadly", "wrong"],
            find_workers("auto", 1),
            name=lambda number: f"piece {number}",
            on_answer=answers.__setitem__,
            on_error=errors.__setitem__,
            on_poll=lambda: None,
            say=said.append,
        )
    assert answers == {0: "fine, done"}
    assert len(said) == LOSSES
    assert all("piece 1: lost" in text for text in said)
    assert isinstance(errors[1], LostError)
    assert type(errors[2]) is FileNotFoundError
    assert str(errors[2]) == "not here"


def work(piece: str) -> str:
    if piece == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "wrong":
        raise FileNotFoundError("not here")
    return f"{piece}, done"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bench_gives_the_results_of_one_machine_in_the_plans_order(
    cluster: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "cache"))
    data = ["phantom:dipole:3:384x640"]
    fragments = open_fragments(data)
    suite = Suite(name="s", about="a", models=[ModelEntry(name="layout")], floors=["allink"], tile=32, letter_px=32)
    models = resolve_models(suite, None, "cpu")
    specs = plan_runs(suite, models, fragments, data=data, device="cpu", seeds=[0], folds=[0], train={})
    quiet = Console(quiet=True)
    local = run_all(specs, tmp_path / "local", quiet)
    sent = run_all_on_cluster(specs, tmp_path / "sent", quiet, cpus=1)
    keys = {"run_id", "status", "quality", "per_fragment", "threshold", "controls", "contract", "notes"}
    assert [one.model_dump(include=keys) for one in sent] == [one.model_dump(include=keys) for one in local]
    assert [one.status for one in sent] == ["ok", "ok"]
    assert [one.spec.label for one in sent] == ["layout", "allink"]
    assert [one.times_scored for one in local] == [1, 1]
    assert [one.times_scored for one in sent] == [2, 2]  # in the ledger of whoever asked
    assert not (home.folder / "cache-of-nodes" / LEDGER).exists()
    kept = run_all_on_cluster(specs, tmp_path / "sent", quiet, cpus=1)
    assert kept == sent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_cluster_does_not_have_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected():
        assert find_workers("auto", 1) == Workers(1, 1, gpu=False)
        with pytest.raises(ValueError, match="--num-cpus 64: no node of the cluster has that many; the largest has 1"):
            find_workers("cpu", 64)
        with pytest.raises(ValueError, match="no node of the cluster has a GPU"):
            find_workers("cuda", 1)
        with pytest.raises(ValueError, match="ray gives each worker a GPU of its own; give --device cuda"):
            find_workers("cuda:1", 1)
        with pytest.raises(ValueError, match="--num-cpus 0 is not possible"):
            find_workers("auto", 0)
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ValueError, match="no cluster answers there"), connected():
            pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs the extra \"cluster\": pip install 'inkzoo\[cluster\]'"), connected():
        pass


@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (3, 8), (16, 2), (17, 3)])
def test_pieces_are_runs_of_the_order_that_hold_each_shard_once(shards: int, workers: int) -> None:
    order = list(reversed(range(shards)))
    pieces = cut(order, workers)
    assert [shard for piece in pieces for shard in piece] == order
    assert len(pieces) == min(shards, PIECES * workers)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
