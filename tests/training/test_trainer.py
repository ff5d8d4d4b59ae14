"""Training runs on small coloured pictures: what they learn, what they leave behind, and how they survive."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import constants

from triaffect.cli.main import main
from triaffect.data.index import build_index, load_index
from triaffect.data.sample import sample
from triaffect.inference.predict import predict
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics.measures import au_score, expr_score, va_score
from triaffect.metrics.scores import score
from triaffect.training import module
from triaffect.training import trainer as training
from triaffect.training.config import TrainConfig
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel, load_model
from triaffect.training.weights import load_backbone_weights

SCORES = {"va": va_score, "expr": expr_score, "au": au_score}


def settings(frames, **changes):
    nested = {
        "data": {"index": str(frames[0]), "images": str(frames[1]), "workers": 0, "rotation": 5.0},
        "model": {"backbone": "test_resnet", "size": 32, "pretrained": False},
        "training": {"epochs": 2, "batch": 16, "lr": 1e-3, "accelerator": "cpu", "devices": 1, "precision": "32"},
    }
    for key, value in changes.items():
        group, name = key.split("__")
        nested.setdefault(group, {})[name] = value
    return nested


def config(frames, **changes):
    return TrainConfig.load(settings(frames, **changes))


def history(run):
    return pl.read_csv(run / "metrics.csv")


def numbers(run):
    return history(run).drop("seconds", "images_per_second", "energy_joules", strict=False)


def test_a_run_folder_holds_everything(frames, tmp_path, real_curves):
    run = training.train(config(frames), tmp_path / "run", progress=False)
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "model",
        "last.ckpt",
        "metrics.csv",
        "curves.png",
        "tensorboard",
        "summary.json",
    }
    table = history(run)
    assert table["epoch"].to_list() == [1, 2]
    assert table["val/total"].to_list() == pytest.approx(
        (table["val/va"] + table["val/expr"] + table["val/au"]).to_list()
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["val/total"] == table["val/total"].max()
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["seed"] == 0
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_kept_model_scores_what_the_run_says(frames, tmp_path, ema):
    run = training.train(config(frames, training__epochs=4, training__ema=ema), tmp_path / "run", progress=False)
    rows = load_index(frames[0], "val")
    predictions = predict(run, rows, frames[1], workers=0, progress=False, device="cpu", half=False)
    best = json.loads((run / "summary.json").read_text())["best"]
    assert predictions["image"].to_list() == rows["image"].to_list()
    for task in TASKS:
        target = rows.select(LABEL_COLUMNS[task]).to_numpy()
        target = target[:, 0] if task == "expr" else target.astype(float)
        score = SCORES[task](predictions.select(PREDICTION_COLUMNS[task]).to_numpy(), target)[task]
        assert score == pytest.approx(best[f"val/{task}"], abs=1e-6)


def test_a_model_overfits_32_images_of_the_sample_on_all_three_tasks(tmp_path):
    images = sample(tmp_path / "sample") / "cropped_aligned"
    few = build_index(images.parent).drop_nulls().sample(32, seed=0, shuffle=True)
    index = tmp_path / "few.parquet"
    pl.concat([few.with_columns(split=pl.lit(split)) for split in ("train", "val")]).write_parquet(index)
    changes = {
        "data__flip": 0.0,
        "data__rotation": 0.0,
        "model__size": 48,
        "training__epochs": 40,
        "training__batch": 8,
    }
    losses = {"losses__va": "ccc+mse", "losses__expr": "ce", "losses__au": "bce", "training__lr": 1e-2}
    run = training.train(config((index, images), **changes, **losses), tmp_path / "run", progress=False)
    last = history(run).row(-1, named=True)
    # What the 32 images do not show at all counts 0 in the official measures.
    assert last["val/va"] > 0.8
    assert last["val/expr"] == pytest.approx(few["expression"].n_unique() / 8, abs=0.05)
    assert last["val/au"] == pytest.approx(np.mean([few[name].max() for name in ACTION_UNITS]), abs=0.1)


@pytest.mark.parametrize("removed", TASKS)
def test_without_one_tasks_labels_the_others_train_and_its_head_stays(frames, tmp_path, removed):
    index = tmp_path / "index.parquet"
    holes = [pl.lit(None).cast(pl.read_parquet(frames[0]).schema[c]).alias(c) for c in LABEL_COLUMNS[removed]]
    train = pl.col("split") == "train"
    table = pl.read_parquet(frames[0])
    holes = [pl.when(~train).then(pl.col(c)).alias(c) for c in LABEL_COLUMNS[removed]]
    table.with_columns(holes).write_parquet(index)
    run = training.train(config((index, frames[1]), training__epochs=1), tmp_path / "run", progress=False)
    torch.manual_seed(0)
    before = AffectModel("test_resnet", size=32).state_dict()
    after = load_model(run).state_dict()
    moved = {task: any(not torch.equal(before[k], after[k]) for k in before if f"heads.{task}" in k) for task in TASKS}
    assert moved == {task: task != removed for task in TASKS}


def test_the_gradient_of_an_unlabelled_head_is_zero(frames):
    index = load_index(frames[0])
    model = AffectModel("test_resnet", size=32)
    losses = TaskLosses(TASKS, index, **vars(config(frames).losses))
    batch = {"va": torch.full((8, 2), float("nan")), "expr": torch.arange(8) % 8, "au": torch.ones(8, 12)}
    losses.total(losses(model(torch.randint(0, 255, (8, 3, 32, 32), dtype=torch.uint8)), batch)).backward()
    gradient = {task: [p.grad.abs().sum().item() for p in head.parameters()] for task, head in model.heads.items()}
    assert sum(gradient["va"]) == 0
    assert min(sum(gradient["expr"]), sum(gradient["au"])) > 0


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(frames, tmp_path):
    runs = [
        training.train(config(frames, training__seed=seed, data__workers=w), tmp_path / name, progress=False)
        for name, seed, w in (("a", 3, 0), ("b", 3, 2), ("c", 4, 0))
    ]
    assert numbers(runs[0]).equals(numbers(runs[1]))
    assert not numbers(runs[0]).equals(numbers(runs[2]))


def test_a_killed_run_resumes_to_the_same_numbers(frames, tmp_path):
    changes = {
        "training__schedule": "plateau",
        "training__patience": 0,
        "training__ema": 0.9,
        "training__early_stop": 50,
        "model__head": "mlp",
        "model__dropout": 0.3,
        "training__optimizer": "sgd",
    }
    nested = settings(frames, training__epochs=8, **changes)
    unbroken = training.train(TrainConfig.load(nested), tmp_path / "unbroken", progress=False)

    run, recipe = tmp_path / "killed", tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(nested))
    command = [sys.executable, "-m", "triaffect.cli.main", "train", "--config", str(recipe), "--out", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((run / "last.ckpt").exists() and len(history(run)) >= 2):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()
    assert len(history(run)) < 8
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert numbers(run).equals(numbers(unbroken))
    ours, theirs = load_model(run).state_dict(), load_model(unbroken).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_stopped_after_any_epoch_resumes_exactly_even_in_a_moved_folder(frames, tmp_path, monkeypatch, moved):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2] + [0.45] * 50)
    real = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *args: {**real(*args), "val/total": next(scores)})
    plateau = {"training__schedule": "plateau", "training__patience": 0}
    changes = {"training__schedule": "cosine", "training__warmup": 0.2} if moved else plateau
    changes |= {"training__epochs": 5, "training__ema": 0.9}
    copies, start_of_epoch = tmp_path / "copies", module.AffectTraining.on_train_epoch_start

    def copy_first(self):
        start_of_epoch(self)
        if self.current_epoch and not (copies / str(self.current_epoch)).exists():
            shutil.copytree(tmp_path / "run", copies / str(self.current_epoch))

    monkeypatch.setattr(module.AffectTraining, "on_train_epoch_start", copy_first)
    all_rows = training.train(config(frames, **changes), tmp_path / "run", progress=False).rename(tmp_path / "whole")
    if not moved:
        assert numbers(all_rows)["lr"].to_list() == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-5])
    for epoch in (3, 4):
        scores = iter(numbers(all_rows)["val/total"].to_list()[epoch:])
        run = copies / str(epoch) if moved else (copies / str(epoch)).rename(tmp_path / "run")
        training.train(config(frames, **changes), run, resume=True, progress=False)
        assert numbers(run).equals(numbers(all_rows))
        ours, theirs = load_model(run).state_dict(), load_model(all_rows).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        if not moved:
            shutil.rmtree(run)


def test_the_scores_of_the_kept_model_are_of_its_own_epoch(frames, tmp_path, monkeypatch):
    """Lightning compares float32 scores: these two are the same to it."""
    scores, real = iter([0.5, 0.5 + 1e-10]), module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *args: {**real(*args), "val/total": next(scores)})
    run = training.train(config(frames), tmp_path / "run", progress=False)
    assert json.loads((run / "summary.json").read_text())["best"]["epoch"] == 1
    assert load_model(run).provenance["validation"]["epoch"] == 1


@pytest.mark.parametrize("changes", [{"data__index": "/nowhere.csv"}, {"training__loggers": ["NoLogger"]}])
def test_what_is_wrong_with_a_run_is_found_before_its_folder_is_made(frames, tmp_path, changes):
    with pytest.raises(InputError):
        training.train(config(frames, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_fetched_are_reported_at_once(frames, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # without listen: it refuses
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(InputError, match=r"HF_ENDPOINT.*local-dir:.*--model\.pretrained false") as caught:
            training.train(
                config(frames, model__backbone="resnet18", model__pretrained=True), tmp_path / "run", progress=False
            )
    assert time.monotonic() - start < 15
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_and_another_configuration_are_refused(frames, tmp_path):
    run = training.train(config(frames, training__epochs=1), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="--resume"):
        training.train(config(frames, training__epochs=1), run)
    with pytest.raises(InputError, match=r"training\.lr"):
        training.train(config(frames, training__epochs=1, training__lr=0.5), run, resume=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no run"):
        training.train(config(frames), tmp_path / "taken")
    assert main(["train", "--resume", "--out", str(run), "--training.lr", "0.5"]) == 2
    before = numbers(run)
    training.train(config(frames, training__epochs=1), run, resume=True, progress=False)
    assert numbers(run).equals(before)


def test_a_nan_loss_stops_the_run_and_names_task_and_images(frames, tmp_path, monkeypatch):
    plain = TaskLosses.forward

    def poisoned(self, raw, batch):
        return {**plain(self, raw, batch), "au": raw["au"].sum() * float("nan")}

    monkeypatch.setattr(TaskLosses, "forward", poisoned)
    with pytest.raises(InputError, match=r"the au loss became .*nan.* in epoch 1.*v0\d/0000\d.jpg"):
        training.train(config(frames), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_bad_images_are_counted_and_named_once_or_stop_the_run(frames, tmp_path):
    images = tmp_path / "images"
    for path in frames[1].glob("*/*.jpg"):
        copy = images / path.relative_to(frames[1])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (images / "v00" / "00001.jpg").write_bytes(b"\xff\xd8 nothing")
    (images / "v09" / "00002.jpg").unlink()
    with pytest.warns(UserWarning, match="skipped v0") as caught:
        run = training.train(config((frames[0], images)), tmp_path / "run", progress=False)
    assert len(caught) == 2
    skipped = json.loads((run / "summary.json").read_text())["skipped_images"]
    assert set(skipped) == {"v00/00001.jpg", "v09/00002.jpg"}
    with pytest.raises(InputError, match="on_bad_image"):
        training.train(config((frames[0], images), data__on_bad_image="error"), tmp_path / "other", progress=False)


def test_early_stop_and_plateau(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK_SCORES", dict.fromkeys(TASKS, lambda p, t: {"va": 0.0, "expr": 0.0, "au": 0.0}))
    changes = {
        "training__epochs": 9,
        "training__early_stop": 4,
        "training__schedule": "plateau",
        "training__patience": 1,
    }
    table = history(training.train(config(frames, **changes), tmp_path / "run", progress=False))
    assert len(table) == 5
    # The best is the first epoch; after two more without a better one the rate is divided.
    assert table["lr"].to_list() == pytest.approx([1e-3] * 3 + [1e-4] * 2)


def test_cosine_rises_and_falls(frames, tmp_path):
    changes = {"training__epochs": 4, "training__schedule": "cosine", "training__warmup": 0.25}
    rates = history(training.train(config(frames, **changes), tmp_path / "run", progress=False))["lr"].to_list()
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + np.cos(np.pi * i / 3)) for i in range(4)], abs=1e-9)


def test_a_frozen_backbone_does_not_move(frames, tmp_path):
    run = training.train(config(frames, model__frozen=True), tmp_path / "run", progress=False)
    torch.manual_seed(0)
    fresh = AffectModel("test_resnet", size=32)
    assert all(torch.equal(v, load_model(run).backbone.state_dict()[k]) for k, v in fresh.backbone.state_dict().items())


def test_a_run_starts_from_another_runs_backbone(frames, tmp_path):
    first = training.train(config(frames, training__epochs=1), tmp_path / "first", progress=False)
    second = training.train(
        config(frames, model__pretrained=str(first / "model"), model__frozen=True, model__tasks=["au"]),
        tmp_path / "second",
        progress=False,
    )
    ours, theirs = load_model(second).backbone.state_dict(), load_model(first).backbone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_subsets_by_frame_and_by_video(frames):
    from triaffect.training.dataset import training_rows

    half = training_rows(config(frames, data__fraction=0.5))[0]
    videos = training_rows(config(frames, data__fraction=0.5, data__fraction_by="video"))[0]
    assert len(half) == 24
    assert videos["video"].n_unique() == 4
    assert len(videos) == 24
    assert half.equals(training_rows(config(frames, data__fraction=0.5))[0])


ABSENT = "cuda" if torch.backends.mps.is_available() else "mps"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__index": ""}, "data.index is not set"),
        ({"data__val": "test"}, "no image with a label .* in split 'test'"),
        ({"data__fraction": 0.0}, "data.fraction is 0"),
        ({"training__select": "va", "model__tasks": ["au"]}, "training.select"),
        ({"model__tasks": []}, "model.tasks"),
        ({"training__batch": 1, "model__head": "mlp"}, "training.batch is 1, but the batch norm of head mlp"),
        ({"training__accelerator": ABSENT}, f"training.accelerator {ABSENT}, .*; set accelerator to auto or cpu"),
    ],
)
def test_wrong_configurations_are_told_in_one_line(frames, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        training.train(config(frames, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["model: {bacbone: x}", "training: {lr: fast}", "model: {tasks: [smile]}", "- a", "a: [", ""]
)
def test_wrong_recipes_are_told_with_exit_code_2(tmp_path, capsys, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    if text:
        with pytest.raises(InputError, match="recipe"):
            TrainConfig.load(recipe)
    try:
        code = main(["train", "--config", str(recipe), "--out", str(tmp_path / "run")])
    except SystemExit as caught:  # the parser's own way out
        code = caught.code
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_two_processes_report_the_score_of_one(frames, tmp_path):
    index = tmp_path / "odd.parquet"  # 47 and 23 rows: neither can be dealt evenly
    table = pl.read_parquet(frames[0])
    table.filter(~pl.col("image").is_in(["v00/00001.jpg", "v09/00003.jpg"])).write_parquet(index)
    # A frozen backbone and no learning rate: the same weights in both.
    still = {"model__frozen": True, "training__lr": 1e-12, "training__epochs": 1, "training__batch": 8}
    alone = training.train(config((index, frames[1]), **still), tmp_path / "one", progress=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings((index, frames[1]), **still, training__devices=2)))
    command = [
        sys.executable,
        "-m",
        "triaffect.cli.main",
        "train",
        "--config",
        str(recipe),
        "--out",
        str(tmp_path / "two"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    columns = ["val/total", "val/va", "val/expr", "val/au", "val/loss"]
    for name in columns:
        assert history(tmp_path / "two")[name][0] == pytest.approx(history(alone)[name][0], abs=1e-6)
    assert len(history(tmp_path / "two")) == 1


def test_seven_classes_have_a_head_of_that_width_and_a_perfect_score_of_one(frames, tmp_path):
    index = tmp_path / "index.parquet"
    pl.read_parquet(frames[0]).write_parquet(index)  # labels 0 to 7: those of Other become missing
    changes = {"model__classes": 7, "model__tasks": ["expr"], "losses__expr": "ce", "data__flip": 0.0}
    changes |= {"training__epochs": 30, "training__batch": 8, "training__lr": 1e-2, "model__pretrained": False}
    run = training.train(config((index, frames[1]), **changes), tmp_path / "run", progress=False)
    assert json.loads((run / "summary.json").read_text())["best"]["val/expr"] == pytest.approx(1.0)
    model = load_model(run)
    assert model.heads["expr"][-1].out_features == 7
    rows = load_index(index, "val")
    predictions = predict(run, rows, frames[1], workers=0, progress=False, device="cpu", half=False)
    assert predictions["other"].max() == 0  # the columns of a predictions file are always the same
    result = score(predictions, rows, resamples=0, classes=7)
    assert result.tasks["expr"] == pytest.approx(1.0)
    assert result.left_out == (rows["expression"] == 7).sum()


@pytest.mark.parametrize("select", ["last", "loss", "total", "va"])
def test_the_kept_epoch_is_the_one_that_select_names(frames, tmp_path, monkeypatch, select):
    rows = iter(
        [{"val/total": 0.2, "val/va": 0.5, "val/loss": 3.0}, {"val/total": 0.9, "val/va": 0.1, "val/loss": 2.0}]
    )
    rows = itertools.chain(
        rows, [{"val/total": 0.3, "val/va": 0.2, "val/loss": 1.0}, {"val/total": 0.1, "val/va": 0.0}]
    )
    real = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *args: {**real(*args), "val/loss": 4.0, **next(rows)})
    run = training.train(config(frames, training__epochs=4, training__select=select), tmp_path / "run", progress=False)
    expected = {"last": 4, "loss": 3, "total": 2, "va": 1}[select]
    assert json.loads((run / "summary.json").read_text())["best"]["epoch"] == expected
    assert load_model(run).provenance["validation"]["epoch"] == expected


def test_plateau_and_early_stop_watch_the_loss(frames, tmp_path, monkeypatch):
    losses, real = iter([3.0, 2.0, 2.5, 2.6, 2.7, 2.8]), module.evaluate
    totals = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # better at each epoch: watching it would change nothing
    made = {"val/loss": losses, "val/total": totals}
    monkeypatch.setattr(module, "evaluate", lambda *args: {**real(*args), **{k: next(v) for k, v in made.items()}})
    changes = {"training__schedule": "plateau", "training__patience": 0, "training__early_stop": 2}
    changes |= {"training__watch": "loss", "training__epochs": 6}
    table = history(training.train(config(frames, **changes), tmp_path / "run", progress=False))
    assert table["lr"].to_list() == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    with pytest.raises(InputError, match=r"training\.watch has no effect"):
        config(frames, training__watch="loss")


def test_part_of_the_validation_split_makes_epochs_shorter_and_is_the_same_for_every_seed_and_task(frames):
    from triaffect.training.dataset import training_rows

    all_rows = training_rows(config(frames))[1]
    parts = [
        training_rows(config(frames, data__val_fraction=0.5, training__seed=seed, model__tasks=tasks))[1]
        for seed, tasks in ((0, list(TASKS)), (1, ["au"]))
    ]
    assert len(parts[0]) == len(all_rows) / 2
    assert parts[0].equals(parts[1])
    strided = training_rows(config(frames, data__val_stride=3))[1]
    assert strided["frame"].to_list() == [1, 4] * 4


def test_fully_labelled_frames_or_any(frames, tmp_path):
    from triaffect.training.dataset import training_rows

    index, rows = tmp_path / "index.parquet", pl.read_parquet(frames[0])
    rows = rows.with_columns(pl.when(pl.col("frame") > 2).then("valence").alias("valence"))
    rows.with_columns(pl.when(pl.col("frame") > 2).then("arousal").alias("arousal")).write_parquet(index)
    assert len(training_rows(config((index, frames[1])))[0]) == 48
    train, val, _ = training_rows(config((index, frames[1]), data__labelled="all"))
    assert train["frame"].min() == 3
    assert len(train) == 32
    assert len(val) == 24  # evaluation uses every labelled frame
    assert len(training_rows(config((index, frames[1]), data__labelled="all", model__tasks=["au"]))[0]) == 48


def test_the_curves_of_the_thesis_are_in_the_metrics(frames, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "LINE_INTERVAL", 0.0)
    run = training.train(config(frames), tmp_path / "run")
    table, printed = history(run), capsys.readouterr().err
    rows = load_index(frames[0], "val")
    predictions = predict(run, rows, frames[1], workers=0, progress=False, device="cpu", half=False)
    right = predictions.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1) == rows["expression"].to_numpy()
    best_row = json.loads((run / "summary.json").read_text())["best"]
    assert best_row["val/accuracy"] == pytest.approx(right.mean())
    assert (table["val/valence"] + table["val/arousal"]).to_list() == pytest.approx((2 * table["val/va"]).to_list())
    assert table["train/accuracy"].is_between(0, 1).all()
    assert "run: epoch 1/2, batch 3 of 3, loss" in printed
    assert "run: epoch 2/2, validation batch 2 of 2" in printed
    line = next(line for line in printed.splitlines() if line.startswith("run: epoch 1/2  train loss"))
    assert line.count("(va ") == 2
    assert f"val loss {table['val/loss'][0]:.3f} (va {table['val/loss_va'][0]:.3f}, expr" in line


@pytest.mark.parametrize("counters", [True, False])
def test_torchvision_weights_load_with_or_without_counters(tmp_path, counters):
    from torchvision.models import resnet18

    torch.manual_seed(1)
    state = resnet18().state_dict()
    file = tmp_path / "resnet18.pth"
    torch.save({k: v for k, v in state.items() if counters or "num_batches_tracked" not in k}, file)
    model = AffectModel("resnet18", size=32)
    with pytest.warns(UserWarning, match=r"2 tensors not loaded: fc\.weight, fc\.bias"):
        load_backbone_weights(model, file)
    ours = model.backbone.state_dict()
    assert torch.equal(ours["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(ours["bn1.running_var"], state["bn1.running_var"])


def test_an_optimiser_of_timm_a_callback_and_a_logger_by_class_path(frames, tmp_path):
    changes = {
        "training__optimizer": "lamb",
        "training__callbacks": ["LearningRateMonitor", "lightning.pytorch.callbacks.Timer"],
        "training__loggers": ["CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"],
    }
    run = training.train(config(frames, **changes), tmp_path / "run", progress=False)
    assert (run / "summary.json").exists()
    assert list(run.rglob("events.out.tfevents*"))
    rates = [path for path in run.rglob("metrics.csv") if "lr-" in path.read_text(encoding="utf-8")]
    assert rates
    (hyperparameters,) = run.rglob("lightning_logs/version_0/hparams.yaml")
    assert yaml.safe_load(hyperparameters.read_text(encoding="utf-8"))["training"]["optimizer"] == "lamb"
    for key, value in (("optimizer", "no_such"), ("callbacks", ["no.Such"])):
        with pytest.raises(InputError, match=rf"training\.{key}: "):
            training.train(config(frames, **{f"training__{key}": value}), tmp_path / "bad", progress=False)
    assert not (tmp_path / "bad").exists()
