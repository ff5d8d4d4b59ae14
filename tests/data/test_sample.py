from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import simplejpeg

import triaffect
from triaffect.cli.main import main
from triaffect.data.index import build_index
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "faces"
    assert main(["sample", str(out)]) == 0
    return out


def test_it_is_small_and_says_what_it_is():
    root = files("triaffect.data.sample")
    size = sum(p.stat().st_size for p in root.joinpath("data").rglob("*") if p.is_file())
    assert size < 6_000_000
    text = root.joinpath("README.md").read_text()
    assert "MIT" in text
    assert "triaffect render" in text


def test_the_reader_finds_everything(folder):
    index = build_index(folder)
    assert index.height == 48 * 33
    assert index["exists"].all()
    videos = index.group_by("split").agg(pl.col("video").n_unique()).sort("split")
    assert videos.rows() == [("train", 24), ("val", 24)]
    assert index["valence"].null_count() == 0
    assert index["expression"].null_count() < 0.3 * index.height


def test_every_class_and_action_unit_is_in_several_videos_of_both_splits(folder):
    index = build_index(folder)
    shown = {au: pl.col(au) == 1 for au in ACTION_UNITS}
    shown |= {name: pl.col("expression") == code for code, name in enumerate(EXPRESSIONS)}
    for name, where in shown.items():
        videos = dict(index.filter(where).group_by("split").agg(pl.col("video").n_unique()).rows())
        assert videos["train"] >= 6, name
        assert videos["val"] >= 6, name


def test_crops_decode_and_are_not_near_copies(folder):
    crops = [
        simplejpeg.decode_jpeg(p.read_bytes()) for p in sorted((folder / "cropped_aligned/face0004").glob("*.jpg"))
    ]
    assert {c.shape for c in crops} == {(112, 112, 3)}
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(crops)]
    assert np.median(apart) > 2


def test_true_intensities_come_with_it(folder):
    truth = pl.read_parquet(folder / "truth.parquet")
    index = build_index(folder)
    joined = index.join(truth, on="image", suffix="_true")
    assert joined.height == index.height
    assert ((joined["AU12"] == 1).fill_null(False) == (joined["AU12_intensity"] >= 0.35)).all()
    assert truth.group_by("person").agg(pl.col("split").n_unique())["split"].max() == 1


def test_copying_again_changes_nothing_and_strangers_are_left_alone(folder, tmp_path):
    crop = folder / "cropped_aligned/face0000/00001.jpg"
    before = crop.stat().st_mtime_ns
    assert triaffect.sample(folder) == folder
    assert crop.stat().st_mtime_ns == before
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        triaffect.sample(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        triaffect.sample(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert main(["sample", str(tmp_path)]) == 2
