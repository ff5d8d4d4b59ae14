"""The verbs score, fuse, show and the pictures of stats, in process, on files."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triaffect.cli.main import main
from triaffect.data.index import provenance, save_index
from triaffect.data.predictions import load_predictions, save_predictions
from triaffect.data.submission import write_submission
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics.fusion import fuse, mean, tune_fusion
from triaffect.metrics.scores import score


@pytest.fixture
def files(make, tmp_path, monkeypatch):
    """index.parquet, single.parquet, multi.parquet and three files of a task each, in the working folder."""
    monkeypatch.chdir(tmp_path)
    single, index = make(1, noise=0.4)
    multi, _ = make(1, noise=0.6)
    save_index(index, "index.parquet", root=tmp_path, images=tmp_path / "crops", format="table")
    save_predictions(single, "single.parquet", {"model": "one"})
    save_predictions(multi, "multi.parquet", {"model": "many"})
    for task in TASKS:
        save_predictions(single.select("image", *PREDICTION_COLUMNS[task]), f"{task}.parquet")
    return single, multi, index


def test_score_prints_the_table(files, capsys):
    assert main(["score", "single.parquet", "index.parquet", "--resamples", "50"]) == 0
    assert capsys.readouterr().out.strip() == score(files[0], files[2], resamples=50).table()


def test_score_prints_json(files, capsys):
    words = ["score", "single.parquet", "index.parquet", "--split", "val", "--json", "--by", "video", "--seed", "3"]
    assert main([*words, "--resamples", "20"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = score(files[0], files[2], split="val", by="video", seed=3, resamples=20)
    assert printed == json.loads(json.dumps(expected.to_dict()))
    assert set(printed["groups"]) == set(files[2]["video"])


def test_score_reads_abaw_text_on_both_sides(files, capsys):
    single, _, index = files
    full = index.with_columns(
        pl.col("valence", "arousal").fill_null(-5), pl.col("expression", *ACTION_UNITS).fill_null(-1)
    )
    rows = full.select("image", "valence", "arousal", "expression", *ACTION_UNITS).rows()
    lines = ["image,valence,arousal,expression,aus", *(",".join(map(str, row)) for row in rows)]
    with open("validation_set_annotations.txt", "w") as file:
        file.write("\n".join(lines) + "\n")
    write_submission(single, "index.parquet", "submission.txt", "mtl")
    assert main(["score", "submission.txt", "validation_set_annotations.txt", "--json", "--resamples", "10"]) == 0
    printed, expected = json.loads(capsys.readouterr().out), score(single, index, resamples=10)
    assert printed["tasks"] == pytest.approx(expected.tasks, abs=1e-5)  # six decimals of V/A
    assert printed["tasks"]["expr"] == pytest.approx(expected.tasks["expr"], abs=1e-12)
    assert printed["videos"] == expected.videos


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["score", "nothing.parquet", "index.parquet"], "nothing.parquet"),
        (["score", "single.parquet", "nothing.parquet"], "nothing.parquet"),
        (["score", "nothing.txt", "index.parquet"], "nothing.txt"),
        (["score", "single.parquet", "index.parquet", "--split", "test"], "'test'"),
        (["score", "single.parquet", "index.parquet", "--by", "sex"], "'sex'"),
        (["fuse", "single.parquet"], "nothing to fuse it with"),
        (["fuse", "va.parquet", "va.parquet", "multi.parquet"], "has va, as"),
        (["fuse", "single.parquet", "multi.parquet", "--weights", "1"], "give 2 numbers"),
        (["fuse", "single.parquet", "multi.parquet", "--lambda-va", "2"], "λ of va"),
        (["fuse", "single.parquet", "multi.parquet", "--lambda-va", "1", "--tune", "index.parquet"], "not two"),
        (["show", "index.parquet"], "name it with --images"),
    ],
)
def test_mistakes_are_one_line_and_code_2(files, capsys, tmp_path, words, named):
    before = sorted(tmp_path.iterdir())
    assert main(words) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_fuse_takes_each_task_from_its_file(files, capsys):
    assert main(["fuse", "au.parquet", "va.parquet", "expr.parquet", "multi.parquet", "--out", "f.parquet"]) == 0
    assert load_predictions("f.parquet").equals(fuse(files[0], files[1]))
    how = provenance("f.parquet")["fusion"]
    assert how["lambdas"] == pytest.approx({"va": 0.4, "expr": 0.6, "au": 0.6})
    assert list(how["sources"]) == ["au.parquet", "va.parquet", "expr.parquet", "multi.parquet"]
    assert how["sources"]["multi.parquet"] == {"model": "many"}
    assert "expression: 0.60 expr.parquet + 0.40 multi.parquet" in capsys.readouterr().out


def test_fuse_by_given_lambda(files):
    assert main(["fuse", "single.parquet", "multi.parquet", "--out", "f.parquet", "--lambda-au", "0.25"]) == 0
    assert load_predictions("f.parquet").equals(fuse(files[0], files[1], {"au": 0.25}))


def test_fuse_by_weights(files):
    words = ["fuse", "single.parquet", "multi.parquet", "single.parquet", "--weights", "1", "2", "1"]
    assert main([*words, "--out", "f.parquet"]) == 0
    assert load_predictions("f.parquet").equals(mean([files[0], files[1], files[0]], [1, 2, 1]))
    assert provenance("f.parquet")["fusion"]["weights"] == [1, 2, 1]


def test_fuse_tunes(files, capsys):
    assert main(["fuse", "single.parquet", "multi.parquet", "--tune", "index.parquet", "--out", "f.parquet"]) == 0
    lambdas, tuning = tune_fusion(*files)
    assert load_predictions("f.parquet").equals(fuse(files[0], files[1], lambdas))
    how = provenance("f.parquet")["fusion"]
    assert how["lambdas"] == pytest.approx(lambdas)
    assert how["tuned_on"] == "index.parquet"
    assert tuning.table() in capsys.readouterr().out


def test_show_draws_crops(files, tmp_path):
    for i, image in enumerate(files[2]["image"]):
        path = tmp_path / "crops" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8 broken") if i % 5 == 0 else Image.new("RGB", (112, 112), "#888").save(path)
    assert main(["show", "index.parquet", "--n", "6", "--task", "expr", "--seed", "0", "--out", "one.png"]) == 0
    assert main(["show", "index.parquet", "--n", "6", "--task", "expr", "--seed", "0", "--out", "two.png"]) == 0
    assert main(["show", "index.parquet", "--n", "6", "--images", "crops", "--seed", "1", "--out", "three.png"]) == 0
    one, two, three = (np.asarray(Image.open(f"{name}.png")) for name in ("one", "two", "three"))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


def test_stats_draws(files, tmp_path):
    assert main(["stats", "index.parquet", "--plots", "pictures"]) == 0
    names = {path.stem for path in (tmp_path / "pictures").glob("*.png")}
    assert names == {"expressions", "action_units", "va_density", "missing"}
