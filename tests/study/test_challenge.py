"""The bundled study `challenge`, end to end on the bundled sample: from raw annotations to the organisers' file."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from triaffect.cli.main import main
from triaffect.data.index import load_index
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError, bundled_file
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS
from triaffect.metrics.blending import tune_blend
from triaffect.metrics.scores import score
from triaffect.study.recipe import read_study
from triaffect.training import run_folder

HEADER = "image,expression,valence,arousal,aus"
"""Another order than ours: the organisers' file decides."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """An index of the bundled sample (a part of it), and a sample submission of three of its videos."""
    folder = tmp_path_factory.mktemp("desk")
    assert main(["sample", str(folder / "raw")]) == 0
    assert main(["index", str(folder / "raw"), "--out", str(folder / "whole.parquet")]) == 0
    words = ["subset", str(folder / "whole.parquet"), "--out", str(folder / "index.parquet"), "--stride", "6"]
    assert main(words) == 0
    images = load_index(folder / "index.parquet", "val").filter(pl.col("video").is_in(["face0001", "face0003"]))
    lines = [HEADER, *(f"{name},0,0,0{',0' * 12}" for name in images["image"])]
    (folder / "sample.txt").write_text("\n".join(lines) + "\n")
    return folder


def words(desk, out):
    sets = ["submission.sample=" + str(desk / "sample.txt"), f"submission.images={desk / 'raw' / 'cropped_aligned'}"]
    sets += ["base.training.epochs=2", "base.training.early_stop=0", "base.training.accelerator=cpu"]
    sets += ["base.training.batch=64", "base.model.fps=2", "base.data.workers=0", "base.training.threads=1"]
    return ["study", "challenge", "--index", str(desk / "index.parquet"), "--out", str(out), "--set", *sets]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The page and the curves take seconds to draw; other tests draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triaffect.report.report.write_report", lambda folder: folder / "report.html")
        patch.setattr(run_folder, "save_figure", lambda figure, path: None)
        patch.setattr("triaffect.metrics.tuning.SIGMAS", (0, 2))
        yield


@pytest.fixture(scope="module")
def finished(desk, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(words(desk, out)) == 0
    return out


def content(folder):
    results = json.loads((folder / "results.json").read_text())
    return results, {model["name"]: model for model in results["models"]}


def test_from_the_sample_file_to_the_upload(desk, finished, capsys):
    results, models = content(finished)
    names = ["still", "short", "long", "still-tuned", "short-tuned", "long-tuned", "two", "blend"]
    assert list(models) == names
    assert [models[name]["kind"] for name in names] == ["heads"] * 3 + ["tuned"] * 3 + ["fusion", "blend"]
    assert results["failures"] == []
    assert "share 2 source videos: face0001, face0003" in results["notes"][0]  # the leak check comes first
    text = (finished / "submission" / "blend.txt").read_text().splitlines()
    assert text[0] == HEADER
    sample = (desk / "sample.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in text] == [line.split(",")[0] for line in sample]
    assert results["submission"] == {
        "file": "submission/blend.txt",
        "model": "blend",
        "sample": str(desk / "sample.txt"),
        "track": "mtl",
        "rows": len(sample) - 1,
        "videos": 2,
        "filled": 0,
    }
    for task, weights in models["blend"]["weights"].items():
        assert sum(weights.values()) == pytest.approx(1), task
        assert set(weights) == {"still-tuned", "short-tuned", "long-tuned"}
    # The tuned systems are what their files say, applied to what the models predict.
    rows = load_index(desk / "index.parquet", "val")
    table = load_predictions(finished / models["blend"]["predictions"])
    assert score(table, rows, resamples=0).tasks == pytest.approx(models["blend"]["scores"]["tasks"])
    values = np.array([line.split(",")[1:] for line in text[1:]], float)
    assert set(values[:, 0]) <= set(range(8))  # the expression is first in this sample
    assert set(values[:, 3:].ravel()) <= {0.0, 1.0}


def test_killed_and_resumed_it_ends_with_the_same_file(desk, finished, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "triaffect.cli.main", *words(desk, out)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while not (out / "runs" / "short" / "heads" / "expr" / "last.ckpt").exists():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL) if sys.platform != "win32" else process.kill()
    process.wait()
    assert not (out / "results.json").exists()
    assert main(words(desk, out)) == 0
    file = "submission/blend.txt"
    assert (out / file).read_bytes() == (finished / file).read_bytes()
    scores = [{name: model["scores"] for name, model in content(folder)[1].items()} for folder in (out, finished)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["submission.sample=none.txt"], "submission.sample: none.txt does not exist"),
        (["submission.model=best"], "submission: no model 'best'"),
        (["submission.track=abaw"], "no track 'abaw'"),
        (["encoders.face=nowhere"], "nowhere: holds no model"),
        (["encoders.face={backbone: resnet99}"], "encoder face: timm has no backbone 'resnet99'"),
        (["encoders.face=3"], "encoder face: 3 is neither a model folder nor keys"),
        (["heads.still.features=body"], "heads still: 'body' is no run or encoder"),
        (["heads.still.model.size=64"], "model.size has no effect on heads"),
        (["tuned.long-tuned.model=longer"], "no model 'longer'; did you mean long"),
        (["blends.blend.members=[still]"], "blend blend: name at least two systems"),
    ],
)
def test_what_a_participant_may_mistype_is_refused_before_anything_is_trained(changes, message, tmp_path):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_study(bundled_file("studies", "challenge"), "index.parquet", changes=changes)


def test_heads_take_from_the_base_what_concerns_features(desk):
    changes = ["base.data.flip=0.3", "base.model.size=64", "base.data.fraction=0.5"]
    plan = read_study(bundled_file("studies", "challenge"), "index.parquet", changes=changes)
    config = plan.heads["long"].config
    assert (config.data.flip, config.data.fraction, config.model.fps) == (0.5, 0.5, 30.0)
    assert plan.submission is None  # without a sample file nothing is written


def test_weights_of_a_blend_follow_the_better_member_and_are_scored_on_other_videos():
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(12), 20)
    images = [f"v{v:02d}/{i % 20 + 1:05d}.jpg" for i, v in enumerate(videos)]
    valence = rng.uniform(-1, 1, 240)
    labels = {"image": images, "video": [f"v{v:02d}" for v in videos], "split": ["val"] * 240, "valence": valence}
    index = pl.DataFrame(labels | {"arousal": valence}).with_columns(
        pl.lit(None, pl.Int8).alias(name) for name in ("expression", *ACTION_UNITS)
    )

    def system(noise):
        values = np.clip(valence + rng.normal(0, noise, 240), -1, 1)
        return pl.DataFrame({"image": images, **dict.fromkeys(PREDICTION_COLUMNS["va"], values)})

    good, other, noise = system(0.3), system(0.3), system(3.0)
    blend = tune_blend([good, other, noise], index)
    weights = blend.weights["va"]
    assert sum(weights) == pytest.approx(1)
    assert weights[2] < 0.15
    assert min(weights[:2]) > 0.25
    value = score(blend.cross_fitted, index, resamples=0).tasks["va"]
    assert value > max(score(part, index, resamples=0).tasks["va"] for part in (good, other, noise)) + 0.01
    assert blend.cross_fitted["image"].to_list() == images
    with pytest.raises(InputError, match="needs two of both"):
        tune_blend([good, other], index.filter(pl.col("video") == "v00"))
