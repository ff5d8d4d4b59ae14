"""Two processes on CPUs do what one does: gradients, training, scores, errors, and going on after a kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from lightning.fabric.strategies.launchers import subprocess_script

from training.test_trainer import config, history, settings
from triaffect.training import trainer as training

GRADIENTS = """
import sys
import torch
from torch import distributed
from triaffect.data.index import load_index
from triaffect.training.distributed import gather_outputs
from triaffect.training.losses import TaskLosses

rank, index, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
outputs = {"va": 2, "expr": 8, "au": 12}
whole = {"x": torch.randn(12, 5), "va": torch.rand(12, 2) * 2 - 1, "expr": torch.arange(12) % 8,
         "au": torch.randint(0, 2, (12, 12)).float()}
whole["va"][:6] = float("nan")  # no label of a task on the first process, a few holes on the second
whole["expr"][[7, 9]] = -1
whole["au"][6:, 3] = float("nan")
for soft in (False, True):
    if soft:
        whole["expr"] = torch.where(whole["expr"][:, None] < 0, float("nan"), torch.eye(8)[whole["expr"]])
    for va, expr, au in (("ccc", "weighted_ce", "focal"), ("ccc+mse", "focal", "weighted_bce")):
        losses = TaskLosses(tuple(outputs), load_index(index), va=va, expr=expr, au=au)
        model = torch.nn.ModuleDict({task: torch.nn.Linear(5, width) for task, width in outputs.items()})

        def loss(part, alone):
            raw = {task: head(part["x"]) for task, head in model.items()}
            return losses.total(losses(*((raw, part) if alone else gather_outputs(raw, part, 7))))

        cut = slice(0, 6) if rank == 0 else slice(6, 11)  # the second could not read an image
        alone = loss({key: value[:11] for key, value in whole.items()}, True)
        alone.backward()
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        ours = loss({key: value[cut] for key, value in whole.items()}, False)
        ours.backward()
        torch.testing.assert_close(ours, alone)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            distributed.all_reduce(parameter.grad)
            torch.testing.assert_close(parameter.grad / 2, gradient, rtol=1e-4, atol=1e-6)
print("same")
"""


def test_the_mean_of_two_processes_gradients_is_that_of_the_whole_batch(frames, tmp_path):
    command = [sys.executable, "-c", GRADIENTS]
    both = [
        subprocess.Popen([*command, str(rank), str(frames[0]), str(tmp_path / "meet")], stdout=subprocess.PIPE)
        for rank in (0, 1)
    ]
    assert [process.communicate(timeout=250)[0].decode().split()[-1] for process in both] == ["same", "same"]


def holed(frames, tmp_path):
    """An index in which a task's labels are missing in bunches, so that the processes have different numbers."""
    table = pl.read_parquet(frames[0])
    table = table.with_columns(
        expression=pl.when(pl.col("frame") > 2).then("expression"),
        valence=pl.when(pl.col("frame") != 3).then("valence"),
    )
    table.write_parquet(tmp_path / "index.parquet")
    return tmp_path / "index.parquet", frames[1]


def start(recipe, out, torchrun=False, **nested):
    recipe.write_text(yaml.safe_dump(nested))
    words = ["-m", "triaffect.cli.main", "train", "--config", str(recipe), "--out", str(out)]
    folder = Path(sys.executable).parent
    front = [str(folder / "torchrun"), "--standalone", "--nproc-per-node", "2"] if torchrun else [sys.executable]
    return subprocess.Popen([*front, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_under_torchrun_train_the_model_of_one(frames, tmp_path):
    # Layer norm, since batch norm's statistics are each process's own. The last step has one batch, the others two.
    changes = {"model__backbone": "test_convnext", "training__accumulate": 2, "training__optimizer": "sgd"}
    data = holed(frames, tmp_path)
    alone = training.train(config(data, training__batch=16, **changes), tmp_path / "one", progress=False)
    nested = settings(data, training__batch=8, training__devices=2, **changes)
    process = start(tmp_path / "recipe.yaml", tmp_path / "two", torchrun=True, **nested)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    ours, theirs = history(tmp_path / "two"), history(alone)
    for name in ("train/loss", "train/loss_va", "train/loss_expr", "train/loss_au", "val/loss", "val/total"):
        assert ours[name].to_list() == pytest.approx(theirs[name].to_list(), abs=2e-4), name
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in alone.iterdir()}


def children(pid):
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]


def test_a_killed_process_ends_the_job_with_a_message(frames, tmp_path):
    nested = settings(frames, training__epochs=6, training__batch=8, training__devices=2)
    run = tmp_path / "run"
    process = start(tmp_path / "recipe.yaml", run, **nested)
    try:
        deadline = time.monotonic() + 250
        while not (run / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (other,) = (p for p in children(process.pid) if b"LOCAL_RANK=1" in Path(f"/proc/{p}/environ").read_bytes())
        os.kill(other, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert "start all again with --resume" in errors
    assert "Traceback" not in errors
    assert len(history(run)) < 6


def test_what_lightnings_watcher_logs_is_said_in_our_words(frames, tmp_path, capsys):
    """It kills its process right after, so a test with real processes sees this message only now and then."""
    training._make_trainer(config(frames), tmp_path / "run", False)
    capsys.readouterr()
    subprocess_script._logger.info("Child process 1 terminated with code -9. Terminating all")
    assert capsys.readouterr().err == f"{tmp_path / 'run'}: {training.LOST}\n"


def nodes(run, words):
    """Two torchrun nodes on loopback, one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    front = [str(Path(sys.executable).parent / "torchrun"), "--nnodes", "2", "--nproc-per-node", "1"]
    front += ["--master-addr", "127.0.0.1", "--master-port", str(port), "--max-restarts", "0"]
    words = ["-m", "triaffect.cli.main", "train", *words, "--out", str(run)]
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    return [subprocess.Popen([*front, "--node-rank", str(rank), *words], env=environment, **options) for rank in (0, 1)]


def kill_node(node):
    """End torchrun and its process as a power cut does."""
    if node.poll() is None:
        for process in (*children(node.pid), node.pid):
            os.kill(process, signal.SIGKILL)
    node.communicate()


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="loopback is named lo, and /proc names the children")
def test_a_lost_machine_ends_the_job_and_it_resumes(frames, tmp_path):
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    nested = settings(frames, training__epochs=4, training__batch=8, training__devices=1, training__nodes=2)
    recipe.write_text(yaml.safe_dump(nested))
    first, second = nodes(run, ["--config", str(recipe)])
    try:
        deadline = time.monotonic() + 600
        while not (run / "last.ckpt").exists():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill_node(second)
        first.communicate(timeout=120)
    finally:
        for node in (first, second):
            kill_node(node)
    assert first.returncode != 0
    assert len(history(run)) < 4
    again = nodes(run, ["--resume"])
    results = [node.communicate(timeout=600) for node in again]
    assert [node.returncode for node in again] == [0, 0], results
    assert history(run)["epoch"].to_list() == list(range(1, 5))
