from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg

from triaffect.cli.main import main
from triaffect.data.index import build_index
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.render.dataset import CHALLENGES, FAULTS, Plan, read_ranges, render
from triaffect.render.ranges import Ranges


def contents(folder: Path) -> dict[str, bytes]:
    """Every file except those in .parts."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".parts" not in p.parts)
    return {os.fspath(p.relative_to(folder)): p.read_bytes() for p in files}


def command(tiny, out, *options):
    size = ["--videos", "4", "--frames", "5", "--size", "32", "--seed", "7", "--seconds", "0.5"]
    return ["render", "--model", str(tiny), "--out", str(out), *size, *options]


@pytest.fixture(scope="module")
def clean(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "faces"
    assert main(command(tiny, out)) == 0
    return out


@pytest.fixture(scope="module")
def faulty(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("faulty") / "faces"
    plan = Plan(videos=6, frames=30, seed=17, size=32, val=0.34, irregular=tuple(FAULTS))
    return render(tiny, out, plan, progress=False)


def test_the_reader_finds_everything(clean):
    index = build_index(clean)
    truth = pl.read_parquet(clean / "truth.parquet")
    assert index.height == 20
    assert index["exists"].all()
    assert index["split"].unique().sort().to_list() == ["train", "val"]
    joined = index.join(truth, on="image", suffix="_true")
    assert joined.height == 20
    np.testing.assert_allclose(joined["valence"], joined["valence_true"], atol=5.1e-5)
    np.testing.assert_array_equal(joined["expression"].fill_null(-1), joined["expression_true"])
    for au in ACTION_UNITS:
        np.testing.assert_array_equal(joined[au].fill_null(-1), joined[f"{au}_true"])
        intensity = joined[f"{au}_intensity"]
        assert ((intensity >= Ranges().visible) == (joined[au] == 1).fill_null(False)).all()


def test_both_layouts_have_the_same_labels(clean):
    per_video, one_file = build_index(clean), build_index(clean, format="mtl")
    keys = ["image"]
    assert per_video.sort(keys).drop("split").equals(one_file.sort(keys).drop("split"))
    lines = (clean / "training_set_annotations.txt").read_text().splitlines()
    assert lines[0] == "image,valence,arousal,expression,aus"
    assert {len(line.split(",")) for line in lines[1:]} == {16}


def test_the_files_are_as_the_organisers_write_them(clean):
    for task, header in (("va", "valence,arousal"), ("expr", ",".join(EXPRESSIONS)), ("au", ",".join(ACTION_UNITS))):
        files = sorted((clean / CHALLENGES[task]).rglob("*.txt"))
        assert len(files) == 4
        assert {f.parent.name for f in files} == {"Train_Set", "Validation_Set"}
        for file in files:
            assert file.read_text().splitlines()[0] == header
    crop = simplejpeg.decode_jpeg((clean / "cropped_aligned/face0002/00005.jpg").read_bytes())
    assert crop.shape == (32, 32, 3)


def test_people_do_not_cross_the_split(clean):
    truth = pl.read_parquet(clean / "truth.parquet")
    assert truth.group_by("person").agg(pl.col("split").n_unique())["split"].max() == 1
    assert truth["skin"].is_between(1, 6).all()


def test_two_processes_give_the_same_bytes(tiny, clean, tmp_path):
    assert main(command(tiny, tmp_path / "two", "--jobs", "2")) == 0
    assert contents(tmp_path / "two") == contents(clean)


def test_a_stopped_run_is_finished_and_nothing_is_drawn_twice(tiny, clean, tmp_path):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(clean, out)
    # As Ctrl-C leaves it: one video has crops without a record, another is missing altogether.
    (out / ".parts/face0001.parquet").unlink()
    (out / "cropped_aligned/face0001/00003.jpg").unlink()
    (out / ".parts/face0002.parquet").unlink()
    shutil.rmtree(out / "cropped_aligned/face0002")
    finished = out / "cropped_aligned/face0000/00001.jpg"
    os.utime(finished, (1, 1))
    assert main(command(tiny, out)) == 0
    assert contents(out) == contents(clean)
    assert finished.stat().st_mtime == 1


def test_another_seed_in_the_same_folder_is_refused(tiny, clean, capsys):
    before = contents(clean)
    assert main(command(tiny, clean, "--seed", "8")) == 2
    assert "begun with other settings" in capsys.readouterr().err
    assert contents(clean) == before


def test_the_faults_of_the_real_set(faulty):
    names = sorted(p.name for p in (faulty / "cropped_aligned").iterdir())
    assert names[:2] == ["face0000_left", "face0000_right"]
    texts = {task: "".join(p.read_text() for p in (faulty / CHALLENGES[task]).rglob("*.txt")) for task in CHALLENGES}
    assert "-5.0,-5.0" in texts["va"]
    assert re.search(r"^-1$", texts["expr"], re.M)
    assert re.search("^" + ",".join(["-1"] * 12) + "$", texts["au"], re.M)
    videos = {task: {p.stem for p in (faulty / CHALLENGES[task]).rglob("*.txt")} for task in CHALLENGES}
    assert len({frozenset(v) for v in videos.values()}) > 1
    truth = pl.read_parquet(faulty / "truth.parquet")
    assert truth.group_by("video").len()["len"].n_unique() > 1
    missing = truth.filter(~pl.col("exists"))
    assert missing.height
    for image, exists in truth.select("image", "exists").iter_rows():
        assert (faulty / "cropped_aligned" / image).exists() == exists
    index = build_index(faulty)
    assert index["exists"].not_().any()
    assert index.height > truth.height  # a line without a frame
    pair = truth.filter(pl.col("video").str.starts_with("face0000"))
    assert pair["person"].n_unique() == 2
    assert pair["split"].unique().to_list() == ["train"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"videos": 0}, "--videos 0"),
        ({"size": 8}, "--size 8"),
        ({"val": 1.0}, "--val 1.0"),
        ({"irregular": ("typos",)}, "--irregular typos"),
    ],
)
def test_senseless_plans_are_refused(change, says, tiny, tmp_path):
    with pytest.raises(InputError, match=re.escape(says)):
        render(tiny, tmp_path / "out", Plan(**change))
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_an_error_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TRIAFFECT_ICT", raising=False)
    assert main(["render", "--out", str(tmp_path / "out")]) == 2
    assert "ICT-VGL/ICT-FaceKit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ranges_from_a_file(tmp_path):
    file = tmp_path / "ranges.yaml"
    file.write_text("yaw: 0.1\nquality: [70, 80]\n")
    assert read_ranges(file) == Ranges(yaw=0.1, quality=(70, 80))
    for text, says in (("yow: 1", "yow"), ("yaw: [1, 2]", "a number"), ("zoom: 1", "two numbers"), ("- 1", "a number")):
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            read_ranges(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_ranges(tmp_path / "none.yaml")


def test_the_record_holds_every_range(clean):
    record = json.loads((clean / "render.json").read_text())
    assert record["seed"] == 7
    assert record["ranges"].keys() == Ranges.__dataclass_fields__.keys()


def test_without_embree_the_verb_says_what_to_install(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex", None)  # as if it were not installed
    assert main(["render", "--model", str(tiny), "--out", str(tmp_path / "faces")]) == 2
    assert "pip install 'triaffect[render]'" in capsys.readouterr().err


def test_a_folder_without_a_model_is_an_error_before_any_worker_starts(tmp_path, capsys):
    assert main(["render", "--model", str(tmp_path), "--out", str(tmp_path / "faces")]) == 2
    assert "generic_neutral_mesh.obj" in capsys.readouterr().err
    assert not (tmp_path / "faces").exists()
