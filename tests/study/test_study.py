"""Studies on small coloured pictures: both papers' studies, stopping and continuing, failures, wrong files, search."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from triaffect.cli.main import main
from triaffect.data.index import load_index
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError, bundled_file, bundled_names, from_plain
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, TASKS
from triaffect.metrics.scores import score
from triaffect.report.report import answer
from triaffect.report.results import HalvesResult, StudyResults
from triaffect.study.recipe import read_study
from triaffect.study.results import split_halves
from triaffect.study.study import run_study, same_data
from triaffect.training import run_folder as runs
from triaffect.training import trainer as training
from triaffect.training.model import AffectModel, load_model
from triaffect.training.weights import load_backbone_weights

TINY = [
    *("base.model.backbone=test_resnet", "base.model.size=32", "base.model.pretrained=false", "base.data.workers=0"),
    *("base.training.epochs=1", "base.training.batch=16", "base.training.lr=1e-3", "base.training.accelerator=cpu"),
    *("base.training.precision='32'", "base.training.early_stop=0"),
]


@pytest.fixture(autouse=True)
def short_report(request, monkeypatch):
    """The page and the curves take seconds to draw; the demo's test has the real ones."""

    def brief(folder):
        page = folder / "report.html"
        page.write_text(json.loads((folder / "results.json").read_text())["title"])
        return page

    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("triaffect.report.report.write_report", brief)
        monkeypatch.setattr(runs, "save_figure", lambda figure, path: None)


@pytest.fixture
def real_report():
    return True


def results(folder):
    return json.loads((folder / "results.json").read_text())


def figures(folder):
    """What must not depend on how often a study was stopped."""
    content = results(folder)
    for model in content["models"]:
        for key in ("seconds_per_epoch", "images_per_second", "energy_joules"):
            del model[key]
    return {
        key: value for key, value in content.items() if key in ("models", "comparisons", "tuning", "halves", "answer")
    }


def write_study(path, text):
    path.write_text("title: A small study\n" + text)
    return str(path)


RUNS = """
runs:
  va: {model.tasks: [va]}
  expr: {model.tasks: [expr]}
  au: {model.tasks: [au]}
  multi: {}
joined: [{name: single, members: [va, expr, au]}]
fusions: [{name: fused, single: [single], multi: multi, lambdas: tuned}]
"""


# The papers' studies on raw layouts -------------------------------------------------------------------------------


def raw_tree(frames, root, layout):
    """The small pictures' labels as they are handed over, with holes in them; returns the frame without a crop."""
    rows = pl.read_parquet(frames[0])
    shutil.copytree(frames[1], root / "cropped_aligned")
    missing = rows.filter(split="val")["image"][5]
    (root / "cropped_aligned" / missing).unlink()
    for split, folder in (("train", "Train_Set"), ("val", "Validation_Set")):
        part = rows.filter(pl.col("split") == split)
        if layout == "s-affwild2":
            word = {"train": "training", "val": "validation"}[split]
            lines = ["image,valence,arousal,expression,aus"]
            for i, row in enumerate(part.iter_rows(named=True)):
                va = "-5.0,-5.0" if split == "train" and i % 9 == 4 else f"{row['valence']:.4f},{row['arousal']:.4f}"
                code = -1 if i % 7 == 3 else row["expression"]
                lines.append(f"{row['image']},{va},{code}," + ",".join(str(row[au]) for au in ACTION_UNITS))
            (root / f"{word}_set_annotations.txt").write_text("\n".join(lines) + "\n")
            continue
        heads = {
            "VA_Estimation_Challenge": ("valence,arousal", lambda r: f"{r['valence']:.4f},{r['arousal']:.4f}"),
            "EXPR_Recognition_Challenge": (",".join(EXPRESSIONS), lambda r: str(r["expression"])),
            "AU_Detection_Challenge": (",".join(ACTION_UNITS), lambda r: ",".join(str(r[au]) for au in ACTION_UNITS)),
        }
        for name, (head, line) in heads.items():
            (root / name / folder).mkdir(parents=True)
            for (video,), rows_of_video in part.group_by("video", maintain_order=True):
                text = "\n".join([head, *map(line, rows_of_video.iter_rows(named=True))])
                (root / name / folder / f"{video}.txt").write_text(text + "\n")
    return missing


@pytest.mark.parametrize(
    ("study", "layout"),
    [("chang2022", "s-affwild2"), ("chang2022", "per-video"), ("asim2024", "per-video"), ("asim2024", "s-affwild2")],
)
def test_the_papers_studies_run_on_both_layouts(frames, tmp_path, study, layout, capsys):
    missing = raw_tree(frames, tmp_path / "raw", layout)
    index, out = tmp_path / "i.parquet", tmp_path / "study"
    assert main(["index", str(tmp_path / "raw"), "--out", str(index)]) == 0
    words = ["study", study, "--index", str(index), "--images", str(tmp_path / "raw" / "cropped_aligned")]
    assert main([*words, "--out", str(out), "--set", *TINY[:4], "--set", *TINY[4:]]) == 0
    printed = capsys.readouterr()
    assert "an estimate from the number of parameters" in printed.err
    assert printed.out.strip().endswith(str(out / "report.html"))
    content, rows = results(out), load_index(index, "val")
    if study == "asim2024":  # subsets of training and validation, secs. 1.10 and 1.11
        assert content["evaluated"] == "evaluated.parquet"
        all_rows, rows = rows, load_index(out / "evaluated.parquet", "val")
        assert rows.height == round(0.8 * all_rows.height)
        assert f"split:val,{rows.height}/{all_rows.height}|" in content["models"][0]["scores"]["signature"]
        assert content["models"][0]["select"] == "last"
    models = {model["name"]: model for model in content["models"]}
    fusions = ["fusion", "tuned-fusion"] if study == "chang2022" else []
    assert list(models) == ["va", "expr", "au", "multi-task", "single-task", *fusions]
    for model in models.values():
        table = load_predictions(out / model["predictions"])
        assert table["image"].to_list() == rows["image"].to_list()
        assert table.filter(pl.col("filled"))["image"].to_list() == [missing] * rows["image"].is_in([missing]).any()
        assert score(table, rows, resamples=0).tasks == pytest.approx(model["scores"]["tasks"])
    assert {name: models[name]["kind"] for name in ("va", "multi-task", "single-task")} == {
        "va": "single",
        "multi-task": "multi",
        "single-task": "joined",
    }
    assert models["single-task"]["parameters"] == sum(models[task]["parameters"] for task in TASKS)
    assert content["same_data"] is False
    assert pl.read_csv(out / "results.csv")["name"].to_list() == list(models)
    pair = next(c for c in content["comparisons"] if {c["a"], c["b"]} == {"multi-task", "single-task"})
    difference = models[pair["a"]]["scores"]["total"] - models[pair["b"]]["scores"]["total"]
    assert pair["measures"]["total"]["difference"] == pytest.approx(difference)
    config = yaml.safe_load((out / "runs" / "expr" / "config.yaml").read_text())
    if study == "chang2022":
        assert config["losses"] == {
            "va": "ccc",
            "expr": "weighted_ce",
            "au": "focal",
            "label_smoothing": 0.0,
            "gamma": 1.0,
            "weights": {},
        }
        single, multi, fused = (
            load_predictions(out / models[n]["predictions"]) for n in ("va", "multi-task", "fusion")
        )
        blend = 0.4 * single["valence"] + 0.6 * multi["valence"]
        assert fused["valence"].to_list() == pytest.approx(blend.to_list(), abs=1e-6)
        assert models["fusion"]["lambdas"] == {"va": 0.4, "expr": 0.6, "au": 0.6}
        assert len(content["halves"]) == 6
        assert {(row["tuned_on"], row["scored_on"]) for row in content["halves"]} == {
            ("first half", "second half"),
            ("second half", "first half"),
        }
    else:
        assert (config["training"]["optimizer"], config["data"]["fraction"]) == ("sgd", 0.8)
        config = yaml.safe_load((out / "runs" / "multi-task" / "config.yaml").read_text())
        assert (config["data"]["labelled"], config["training"]["select"]) == ("all", "last")
        command = next(line for line in content["commands"] if line.startswith("triaffect score"))
        assert f"{out}/evaluated.parquet --split val" in command
        assert content["tuning"] == content["halves"] == []


# Stopping and continuing ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(frames, tmp_path_factory):
    """A study that ran through at once."""
    folder = tmp_path_factory.mktemp("finished")
    study = write_study(folder / "r.yaml", RUNS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triaffect.report.report.write_report", lambda folder: folder / "report.html")
        patch.setattr(runs, "save_figure", lambda figure, path: None)
        run_study(study, str(frames[0]), str(frames[1]), folder / "out", changes=[*TINY, "base.training.epochs=3"])
    return study, folder / "out"


def test_a_killed_study_continues_to_the_same_results(frames, tmp_path, finished, capfd):
    study, done = finished
    words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(tmp_path / "out")]
    words += ["--set", *TINY, "base.training.epochs=3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "triaffect.cli.main", *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "out" / "runs" / "expr" / "last.ckpt").exists():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "results.json").exists()
    (tmp_path / "out" / "runs" / "multi" / "config.yaml").unlink()  # as if killed while this one began
    assert main([*words]) == 0
    printed = capfd.readouterr()
    assert "finished" in printed.err
    assert "to train: va," not in printed.err
    assert figures(tmp_path / "out") == figures(done)


def test_a_finished_study_trains_nothing_again(frames, finished, monkeypatch, capsys):
    done = finished[1]
    before = figures(done)
    monkeypatch.setattr(training, "train", lambda *arguments, **options: pytest.fail("trained again"))
    lines = []
    run_study(done / "study.yaml", str(frames[0]), str(frames[1]), done, progress=lines.append)
    assert "nothing left to train" in lines[0]
    assert capsys.readouterr().out == ""  # a library function prints nothing
    assert figures(done) == before


def test_ctrl_c_says_how_to_continue(frames, tmp_path, monkeypatch, capsys):
    def interrupted(config, run, resume):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    study, out = write_study(tmp_path / "r.yaml", RUNS), tmp_path / "out"
    words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(out)]
    assert main([*words, "--set", *TINY]) == 130
    line = next(line for line in capsys.readouterr().err.splitlines() if "continue with" in line)
    monkeypatch.setattr(training, "train", lambda config, run, resume: run)  # leaves nothing, so nothing can be scored
    assert main(line.partition("triaffect ")[2].split()) == 1
    assert results(out)["answer"] == ["No model of this study was completed."]


def test_weights_that_cannot_be_fetched_stop_a_study_before_its_first_run(frames, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        text = "base: {model: {backbone: resnet18, pretrained: true}}\nruns: {all: {}}"
        study, out = write_study(tmp_path / "r.yaml", text), tmp_path / "out"
        words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(out)]
        assert main(words) == 2
    error = capsys.readouterr().err
    assert "HF_ENDPOINT" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_another_study_in_the_same_folder_is_refused(frames, finished, capsys):
    study, done = finished
    words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(done)]
    assert main([*words, "--set", *TINY, "base.training.epochs=4"]) == 2
    assert "training.epochs 3, not 4" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no study"):
        run_study(study, str(frames[0]), str(frames[1]), frames[1].parent, changes=TINY)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_studies_cannot_work_in_one_folder(frames, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print('held', flush=True); input()"
    words = [sys.executable, "-c", hold, str(folder / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another study is running"):
            run_study(write_study(tmp_path / "r.yaml", RUNS), str(frames[0]), str(frames[1]), folder, changes=TINY)
        other.communicate(b"\n")


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_loses_nothing_else_and_is_repaired_by_the_next_call(frames, tmp_path, monkeypatch, capsys):
    real = training.train

    def failing(config, run, resume):
        if run.name == "expr":
            raise RuntimeError("out of paper\nand ink")
        return real(config, run, resume, progress=False)

    monkeypatch.setattr(training, "train", failing)
    text = RUNS.replace("joined: [", "joined: [{name: same, members: [multi]}, ")
    study, out = write_study(tmp_path / "r.yaml", text), tmp_path / "out"
    words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(out), "--set", *TINY]
    assert main(words) == 1
    assert "failed: expr: RuntimeError: out of paper (see" in capsys.readouterr().err
    content = results(out)
    assert [model["name"] for model in content["models"]] == ["va", "au", "multi", "same"]
    assert [failure["name"] for failure in content["failures"]] == ["expr", "single", "fused"]
    assert content["failures"][1]["reason"] == "needs expr, which is missing"
    assert "Traceback" in (out / "runs" / "expr" / "error.txt").read_text()
    same = next(c for c in content["comparisons"] if {c["a"], c["b"]} == {"multi", "same"})
    assert {(m["difference"], m["p"]) for m in same["measures"].values()} == {(0.0, 1.0)}  # copies are never different
    monkeypatch.setattr(training, "train", real)
    assert main(words) == 0
    assert [model["name"] for model in results(out)["models"]] == [*TASKS, "multi", "same", "single", "fused"]


def test_parallel_runs_give_the_same_results_and_isolate_failures(frames, tmp_path, finished):
    study = write_study(tmp_path / "r.yaml", RUNS.partition("joined")[0] + "  bad: {model.tasks: [va]}\n")
    bad = ["runs.expr=null", "runs.au=null", "runs.multi=null", "runs.bad.model.head=mlp", "runs.bad.training.lr=999"]
    bad += ["runs.bad.training.optimizer=sgd", "runs.bad.losses.va=mse"]
    out = tmp_path / "out"
    words = ["study", study, "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(out), "--jobs", "2"]
    assert main([*words, "--set", *TINY, "base.training.epochs=3", *bad]) == 1
    content = results(out)
    assert [failure["name"] for failure in content["failures"]] == ["bad"]
    assert "the va loss became" in content["failures"][0]["reason"]
    alone = next(model for model in figures(finished[1])["models"] if model["name"] == "va")
    (again,) = figures(out)["models"]
    assert {key: again[key] for key in again if again[key] != alone[key]} == {}


def test_a_killed_worker_continues_its_run(frames, tmp_path):
    text = "runs: {a: {model.tasks: [va]}, b: {model.tasks: [va], losses.va: mse}}\n"
    study, folder = write_study(tmp_path / "s.yaml", text), tmp_path / "out"
    killed = []

    def kill_a_worker():
        while not (folder / "runs" / "a" / "last.ckpt").exists():
            time.sleep(0.01)
        killed.append(multiprocessing.active_children()[0])
        killed[0].kill()

    thread = threading.Thread(target=kill_a_worker, daemon=True)
    thread.start()
    changes = [*TINY, "base.training.epochs=6"]
    content = run_study(study, str(frames[0]), str(frames[1]), folder, changes=changes, jobs=2)
    assert len(killed) == 1
    assert content.failures == []
    assert [(model.name, model.epochs) for model in content.models] == [("a", 6), ("b", 6)]


# Study files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "has no keys"),
        ("runs: {va: {model.tasks: [va]", "is not YAML"),
        ("title: nothing", "runs is empty"),
        ("run: {}", "study: no key 'run'; did you mean runs?"),
        ("runs: {va: {modell: {}}}", "run va: no key 'modell'; did you mean model?"),
        ("runs: {va: {training.epoch: 3}}", "run va: Group 'training' does not accept option 'epoch'"),
        ("runs: {va: {model.tasks: [valence]}}", "run va:"),
        ("runs: {va: {model.backbone: resnet81}}", "timm has no backbone 'resnet81'; near it: resnet18"),
        ("runs: {va: {model.pretrained: nowhere}}", "no weights 'nowhere'"),
        ("runs: {../va: {}}", "is not a valid name"),
        ("runs: {a: {data.val: val}, b: {data.val: test}}", "different data.val"),
        ("runs: {a: {}}\njoined: [{name: j, members: [b]}]", "joined j: no model 'b'; ['a']"),
        ("runs: {a: {}, b: {}}\njoined: [{name: j, members: [a, b]}]", "have the same task"),
        ("runs: {a: {}}\njoined: [{name: a, members: [a]}]", "already the name of another model"),
        ("runs: {a: {}, b: {}}\nfusions: [{name: f, single: [a]}]", "fusions: an entry lacks multi"),
        (
            "runs: {a: {model.tasks: [va]}, b: {model.tasks: [au]}}\nfusions: [{name: f, single: [a], multi: b}]",
            "no task",
        ),
        (
            "runs: {a: {}, b: {}}\nfusions: [{name: f, single: [a], multi: b, lambdas: {va: 2}}]",
            "not all between 0 and 1",
        ),
        ("runs: {a: {}}\nheads: [{name: h, features: b}]", "is no run or encoder of this study and no model folder"),
        ("runs: {a: {}}\nheads: [{name: h, features: a, training.schedule: cosine}]", "has no effect on heads"),
        ("runs: {a: {}}\ncompare: [[a, c]]", "no model 'c'"),
        ("runs: {a: {}}\nsearch: {run: b, keys: {training.lr: [1]}}", "needs a run of this study"),
        ("runs: {a: {}}\nsearch: {run: a, keys: {training.lrr: [1]}}", "search training.lrr"),
        ("runs: {a: {}}\nsearch: {run: a, keys: {training.lr: {low: 1, high: 0}}}", "give low and high"),
        ("runs: {a: {}}\npaper: {sauce: x}", "paper: no key 'sauce'; did you mean source?"),
    ],
)
def test_wrong_study_files_are_refused_by_name_before_anything_is_trained(frames, tmp_path, text, message, capsys):
    study = tmp_path / "r.yaml"
    study.write_text(text)
    words = ["study", str(study), "--index", str(frames[0]), "--images", str(frames[1]), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert str(study) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [("base", "write it as key=value"), ("heads.x.y.z=1", "nothing below x"), ("title.x=1", "nothing below title")],
)
def test_wrong_changes_are_refused(frames, change, message):
    with pytest.raises(InputError, match=message):
        read_study("demo", "i.parquet", changes=[change], check_files=False)


def test_every_bundled_study_can_be_read():
    for name in bundled_names("studies"):
        study = read_study(name, "i.parquet", check_files=name != "initialisation")
        assert study.question.endswith("?")
    with pytest.raises(InputError, match=r"one of architectures, asim2024, .*chang2022"):
        read_study("chang2023", "i.parquet")
    with pytest.raises(InputError, match=r"no weights 'work/weights/mobilenetv2_100\.safetensors'"):
        read_study("initialisation", "i.parquet")


def test_models_with_different_seeds_keep_different_ones_for_every_seed_of_the_study(tmp_path):
    text = "runs: {a: {}, b: {training.seed: 1}, c: {training.seed: 2}}\nseeds: [0, 3]\n"
    plan = read_study(write_study(tmp_path / "r.yaml", text), "i.parquet", check_files=False)
    assert [run.training.seed for run in plan.runs.values()] == [0, 1000, 2000, 3, 1003, 2003]
    assert plan.seeds["b"] == ["b-seed0", "b-seed3"]


def test_seeds_repeat_everything_and_energy_is_reported(frames, tmp_path, monkeypatch):
    counter = itertools.count()
    monkeypatch.setattr("triaffect.training.module.energy_joules", lambda: 5.0 * next(counter))
    text = "runs: {a: {model.tasks: [va]}, b: {model.tasks: [va], losses.va: mse}}\nseeds: [0, 1]\ncompare: [[a, b]]\n"
    study = write_study(tmp_path / "r.yaml", text)
    content = run_study(study, str(frames[0]), str(frames[1]), tmp_path / "out", changes=TINY)
    assert [model.name for model in content.models] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    (comparison,) = content.comparisons  # of the means over the seeds
    assert (comparison.a, comparison.b) == ("a", "b")
    totals = [model.scores.total for model in content.models]
    assert comparison.measures["total"].difference == pytest.approx((totals[0] - totals[1] + totals[2] - totals[3]) / 2)
    assert content.answer[0].startswith(("On valence-arousal a ", "On valence-arousal b "))
    assert any(line.startswith("Over 2 seeds a scores") for line in content.answer)
    scores = [model.scores.total for model in content.models]
    assert scores[0] != scores[2]
    assert [model.energy_joules for model in content.models] == [5.0] * 4


def test_a_study_with_heads_on_frozen_features(frames, tmp_path):
    text = """
runs: {multi: {}}
heads:
  - {name: joint, features: multi, joint: true, training.epochs: 3, training.lr: 0.01}
  - {name: separate, features: multi, training: {epochs: 3, lr: 0.01}}
"""
    study = write_study(tmp_path / "r.yaml", text)
    content = run_study(study, str(frames[0]), str(frames[1]), tmp_path / "out", changes=TINY)
    assert [(model.name, model.kind, model.epochs) for model in content.models] == [
        ("multi", "multi", 1),
        ("joint", "heads", 3),
        ("separate", "heads", 3),
    ]
    assert (tmp_path / "out" / "features" / "multi" / "features.npy").is_file()
    assert len(content.comparisons) == 3


# Search -----------------------------------------------------------------------------------------------------------


def test_a_search_continues_where_it_was(frames, tmp_path, monkeypatch):
    text = """
runs: {va: {model.tasks: [va]}}
search: {run: va, keys: {training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, losses.va: [ccc, mse]}}
"""
    study, real = write_study(tmp_path / "r.yaml", text), training.train

    def search(out, trials):
        return run_study(study, str(frames[0]), str(frames[1]), tmp_path / out, changes=TINY, search=trials).search

    complete = search("complete", 2)
    assert [trial.number for trial in complete.trials] == [0, 1]
    assert set(complete.trials[0].values) == {"training.lr", "losses.va"}
    assert complete.best == max(complete.trials, key=lambda trial: trial.score)

    def stopped(config, run, resume):
        if run.name == "trial-1":
            raise KeyboardInterrupt
        return real(config, run, resume, progress=False)

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        search("stopped", 2)
    monkeypatch.setattr(training, "train", real)
    assert search("stopped", 2) == complete
    assert search("stopped", 0) == complete  # shown again, nothing tried
    with pytest.raises(InputError, match="has no key search"):
        run_study("losses", str(frames[0]), str(frames[1]), tmp_path / "x", search=1, changes=TINY)


def test_a_search_in_a_study_with_several_seeds_varies_the_run_of_the_first(frames, tmp_path):
    text = "runs: {va: {model.tasks: [va]}}\nseeds: [3, 4]\nsearch: {run: va, keys: {losses.va: [ccc, mse]}}\n"
    study = write_study(tmp_path / "s.yaml", text)
    content = run_study(study, str(frames[0]), str(frames[1]), tmp_path / "out", changes=TINY, search=1)
    assert [model.name for model in content.models] == ["va-seed3", "va-seed4"]
    assert len(content.search.trials) == 1
    config = yaml.safe_load((tmp_path / "out" / "search" / "trial-0" / "config.yaml").read_text())
    assert config["training"]["seed"] == 3


# Pieces -----------------------------------------------------------------------------------------------------------


def test_halves_keep_both_persons_of_a_video_together():
    videos = [f"v{i}{side}" for i in range(7) for side in ("_left", "_right")] + ["single"]
    rng = np.random.default_rng(0)
    index = pl.DataFrame({"video": np.repeat(videos, 5), "expression": rng.integers(-1, 8, 75)})
    index = index.with_columns(pl.when(pl.col("expression") >= 0).then("expression"))
    first, second = split_halves(index)
    assert first.height + second.height == 75
    sources = [{video.split("_")[0] for video in half["video"]} for half in (first, second)]
    assert not sources[0] & sources[1]
    assert {len(side) for side in sources} == {4}
    unlabelled = [half.height for half in split_halves(index.with_columns(expression=pl.lit(None, pl.Int8)))]
    assert sum(unlabelled) == 75


def test_the_papers_data_is_recognised_by_layout_and_counts(frames):
    counts = {"train": 48, "val": 24}
    assert same_data({"frames": counts}, str(frames[0]))
    assert same_data({"frames": {**counts, "labelled": "valence"}}, str(frames[0]))
    assert not same_data({"frames": {**counts, "format": "mtl"}}, str(frames[0]))
    assert not same_data({"frames": {"train": 48, "val": 30}}, str(frames[0]))
    assert not same_data(None, str(frames[0]))


def model(name, kind, tasks, low=0.1, members=None):
    scores = {"tasks": tasks, "total": sum(tasks.values()), "baseline": dict.fromkeys(tasks, 0.05)}
    scores["intervals"] = dict.fromkeys(tasks, (low, 0.9))
    return {"name": name, "kind": kind, "tasks": list(tasks), "scores": scores, "members": members}


def test_the_answer_says_who_is_ahead_and_whether_it_is_significant():
    models = [
        model("va", "single", {"va": 0.3}),
        model("multi", "multi", {"va": 0.4, "au": 0.2}, low=0.01),
        model("all", "joined", {"va": 0.3, "au": 0.3}),
        model("fused", "fusion", {"va": 0.45, "au": 0.25}, members=["all", "multi"]),
    ]
    measures = {"va": {"difference": 0.1, "low": 0.02, "high": 0.2, "p": 0.01}}
    measures["au"] = {"difference": -0.1, "low": -0.3, "high": 0.1, "p": 0.4}
    halves = HalvesResult("fused", "va", "first half", "second half", 0.5, 0.3, 0.4, 0.45)
    lines = answer(
        from_plain(
            StudyResults,
            {
                "models": models,
                "comparisons": [{"a": "multi", "b": "all", "measures": measures}],
                "halves": [asdict(halves)],
                "failures": [{"name": "x", "reason": "y"}],
            },
        )
    )
    text = "\n".join(lines)
    assert lines[:3] == [
        "In total multi and all are level (0.600).",
        "By task: valence-arousal 0.400 to 0.300 (significant), action units 0.200 to 0.300 (not significant).",
        "Fused (each half of the videos with the λ chosen on the other half) is in total ahead of multi, 0.700 "
        "to 0.600, and at least as good as the better of its two sides on each task but action units (0.250 to 0.300).",
    ]
    unclear = "multi on valence-arousal and multi on action units"
    assert f"Not clearly better than the trivial baseline: {unclear}." in text
    assert "Missing: x" in text
    total = {"difference": 0.1, "low": -0.1, "high": 0.3, "p": 0.3}
    pair = {"a": "all", "b": "fused", "measures": {"total": total}}
    others = [models[0], models[2], {**models[3], "kind": "joined"}]
    (line, _) = answer(from_plain(StudyResults, {"models": others, "comparisons": [pair]}))
    assert line.endswith(
        "fused is ahead of all, 0.700 to 0.600 (not significant: 95 % interval of the difference −0.300 to +0.100)."
    )  # turned round
    assert answer(StudyResults()) == ["No model of this study was completed."]


def test_many_models_are_counted_and_the_best_is_reported_of():
    values = {"a": (0.4, 0.2), "b": (0.2, 0.1), "c": (0.5, 0.35), "d": (0.3, 0.3)}
    models = [model(name, "multi", {"va": va, "au": au}) for name, (va, au) in values.items()]
    models.append(model("all", "joined", {"va": 0.3, "au": 0.25}))
    lines = answer(from_plain(StudyResults, {"models": models}))
    assert lines[:3] == [
        "Of 4 multi-task models 3 are ahead of all in total, 1 on every task (c).",
        "In total c is ahead of all, 0.850 to 0.550.",
        "By task: valence-arousal 0.500 to 0.300, action units 0.350 to 0.250.",
    ]


def test_the_demo_goes_from_the_sample_to_a_report(tmp_path, capsys, real_report):
    changes = [*TINY, "base.data.fraction=0.1", "base.training.ema=0"]
    assert main(["demo", "--out", str(tmp_path / "demo"), "--set", *changes]) == 0
    printed = capsys.readouterr().out
    assert printed.strip().endswith("report.html")
    assert {path.suffix for path in (tmp_path / "demo" / "pictures").iterdir()} == {".png"}
    page = (tmp_path / "demo" / "study" / "report.html").read_text()
    assert "tuned-fusion" in page
    assert len(results(tmp_path / "demo" / "study")["models"]) == 7
    assert set(LABEL_COLUMNS) == set(results(tmp_path / "demo" / "study")["models"][-1]["tasks"])


@pytest.mark.parametrize("name", bundled_names("studies"))
def test_the_total_of_each_row_of_a_paper_is_the_sum_of_its_parts(name):
    paper = yaml.safe_load(bundled_file("studies", name).read_text()).get("paper") or {"rows": []}
    for row in paper["rows"]:
        assert row["total"] == pytest.approx(row["va"] + row["expr"] + row["au"], abs=1.5e-3), row["name"]


def test_lambda_by_hand(frames, tmp_path):
    text = RUNS.replace("lambdas: tuned", "lambdas: {va: 0.4, expr: 0.25}")
    study = write_study(tmp_path / "r.yaml", text)
    content = run_study(study, str(frames[0]), str(frames[1]), tmp_path / "out", changes=TINY)
    fused = next(model for model in content.models if model.name == "fused")
    assert fused.lambdas == {"va": 0.4, "expr": 0.25, "au": 0.6}
    tables = {
        name: load_predictions(tmp_path / "out" / "predictions" / f"{name}.parquet") for name in ("expr", "multi")
    }
    expected = 0.25 * tables["expr"]["fear"] + 0.75 * tables["multi"]["fear"]
    made = load_predictions(tmp_path / "out" / fused.predictions)["fear"]
    assert made.to_list() == pytest.approx(expected.to_list(), abs=1e-6)
    for wrong, message in (("{va: 2}", "not all between 0 and 1"), ("{smile: 0.5}", "use paper, tuned or")):
        with pytest.raises(InputError, match=message):
            read_study(
                write_study(tmp_path / "w.yaml", RUNS.replace("lambdas: tuned", f"lambdas: {wrong}")), "i.parquet"
            )


def test_the_bundled_model_is_a_start_for_others(tmp_path):
    text = "base: {model: {backbone: face_descriptor, pretrained: triaffect-base}}\nruns: {all: {}}"
    assert (
        read_study(write_study(tmp_path / "r.yaml", text), "i.parquet").runs["all"].model.pretrained == "triaffect-base"
    )
    model = AffectModel("face_descriptor", size=64)
    load_backbone_weights(model, "triaffect-base")
    bundled = load_model("triaffect-base").backbone.state_dict()
    assert all(torch.equal(value, bundled[name]) for name, value in model.backbone.state_dict().items())
