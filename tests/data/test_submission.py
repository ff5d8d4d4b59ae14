"""Submissions in text: every track out, and in again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from raw_layout import HEADERS, MTL, ZEROS
from triaffect.data.index import build_index
from triaffect.data.predictions import save_predictions
from triaffect.data.submission import TRACKS, read_submission, write_submission
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS

Write = Callable[..., Path]


def predicted(images: list[str], seed: int = 0) -> pl.DataFrame:
    rng, n = np.random.default_rng(seed), len(images)
    columns = {"image": images} | {name: rng.uniform(-1, 1, n) for name in PREDICTION_COLUMNS["va"]}
    columns |= dict(zip(PREDICTION_COLUMNS["expr"], rng.dirichlet(np.ones(8), n).T, strict=True))
    return pl.DataFrame(columns | {name: rng.uniform(0, 1, n) for name in ACTION_UNITS})


ONE = pl.DataFrame(
    {
        "image": ["v/00002.jpg", "v/00001.jpg", "w/00007.jpg"],
        "valence": [0.5, -0.25, 1e-7],
        "arousal": [-0.5, 0.0, 1.0],
        **{name: [0.0, 0.1, 0.0] for name in PREDICTION_COLUMNS["expr"]},
        "surprise": [1.0, 0.3, 0.0],
        **{name: [0.0, 0.49, 1.0] for name in ACTION_UNITS},
        "AU4": [0.5, 0.1, 0.2],
        "filled": [False, True, False],
    }
)


def test_the_mtl_file_verbatim(text_file: Write, tmp_path: Path) -> None:
    release = text_file("MTL.txt", "v/00001.jpg,", "v/00002.jpg,", "v/00002.jpg,", "w/00007.jpg,")
    counts = write_submission(ONE, release, tmp_path / "out.txt", "mtl")
    assert counts == {"rows": 4, "videos": 2, "filled": 1}
    assert (tmp_path / "out.txt").read_bytes().decode() == (
        f"{MTL}\n"
        "v/00001.jpg,-0.250000,0.000000,6,0,0,0,0,0,0,0,0,0,0,0,0\n"
        "v/00002.jpg,0.500000,-0.500000,6,0,0,1,0,0,0,0,0,0,0,0,0\n"
        "v/00002.jpg,0.500000,-0.500000,6,0,0,1,0,0,0,0,0,0,0,0,0\n"
        "w/00007.jpg,0.000000,1.000000,0,1,1,0,1,1,1,1,1,1,1,1,1\n"
    )


@pytest.mark.parametrize(
    ("track", "header", "row"),
    [
        ("va", "image_location,valence,arousal", "v/00001.jpg,-0.250000,0.000000"),
        ("expr", "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other", "v/00001.jpg,6"),
        ("au", "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26", f"v/00001.jpg,{ZEROS}"),
    ],
)
def test_the_uni_task_files_verbatim(text_file: Write, tmp_path: Path, track: str, header: str, row: str) -> None:
    release = text_file("test_set.txt", "image_location", "v/00001.jpg")
    write_submission(ONE, release, tmp_path / "out.txt", track)
    assert (tmp_path / "out.txt").read_text() == f"{header}\n{row}\n"


def test_the_sample_submission_decides_header_and_order(text_file: Write, tmp_path: Path) -> None:
    sample = text_file("CVPR_sample.txt", "Image_Location, arousal ,Valence", "v/00002.jpg,0,0", "v/00001.jpg,0,0")
    write_submission(ONE, sample, tmp_path / "va.txt", "va")
    assert (tmp_path / "va.txt").read_text() == (
        "Image_Location,arousal,Valence\nv/00002.jpg,-0.500000,0.500000\nv/00001.jpg,0.000000,-0.250000\n"
    )
    units = [*reversed(ACTION_UNITS)]
    sample = text_file("au.txt", f"image,{','.join(units)}", f"w/00007.jpg,{ZEROS}")
    write_submission(ONE, sample, tmp_path / "au.txt", "au")
    expected = ["0" if unit == "AU4" else "1" for unit in units]
    assert (tmp_path / "au.txt").read_text() == f"image,{','.join(units)}\nw/00007.jpg,{','.join(expected)}\n"
    with pytest.raises(InputError, match="is not of track expr; name this track's sample file"):
        write_submission(ONE, sample, tmp_path / "expr.txt", "expr")
    assert not (tmp_path / "expr.txt").exists()


def test_per_video_files_have_a_line_for_every_expected_frame(text_file: Write, tmp_path: Path) -> None:
    table = predicted(["v/00001.jpg", "v/00002.jpg", "v/00003.jpg", "w_left/00001.jpg"])
    with_lengths = text_file("a_test_set_release.txt", "w_left", "v,2")
    assert write_submission(table, with_lengths, tmp_path / "out", "expr-videos")["rows"] == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["v.txt", "w_left.txt"]
    lines = (tmp_path / "out" / "v.txt").read_text().splitlines()
    assert lines[0] == HEADERS["expr"]
    assert [int(x) for x in lines[1:]] == table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)[:2].tolist()
    without_lengths = text_file("b_test_set_release.txt", "v")
    assert write_submission(table, without_lengths, tmp_path / "out", "va-videos") == {
        "rows": 3,
        "videos": 1,
        "filled": 0,
    }
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["v.txt"]  # the folder is replaced as a whole
    too_long = text_file("c_test_set_release.txt", "v,5")
    with pytest.raises(InputError, match=r"2 of 5 images have no prediction: v/00004\.jpg, v/00005\.jpg;"):
        write_submission(table, too_long, tmp_path / "out", "au-videos")
    assert (tmp_path / "out" / "v.txt").read_text().startswith("valence,arousal\n")


def test_missing_images_are_named_and_nothing_is_written(text_file: Write, tmp_path: Path) -> None:
    release = text_file("list.txt", *(f"v/{i:05d}.jpg" for i in range(1, 8)))
    out = tmp_path / "out.txt"
    with pytest.raises(
        InputError, match=r"5 of 7 images .*: v/00003\.jpg, v/00004\.jpg, v/00005\.jpg \.\.\.;"
    ) as caught:
        write_submission(ONE, release, out, "va")
    assert str(out) in str(caught.value)
    with pytest.raises(InputError, match="holds no expr and no au, which track mtl needs"):
        write_submission(ONE.select("image", "valence", "arousal"), release, out, "mtl")
    with pytest.raises(InputError, match="no track 'VA'"):
        write_submission(ONE, release, out, "VA")
    with pytest.raises(InputError, match="no such release list"):
        write_submission(ONE, tmp_path / "x.txt", out, "va")
    videos = text_file("VA_test_set_release.txt", "v")
    with pytest.raises(InputError, match="names videos only"):
        write_submission(ONE, videos, out, "va")
    assert {p.name for p in tmp_path.iterdir()} == {"list.txt", "VA_test_set_release.txt"}


def test_crops_unpacked_deeper_match_the_list(text_file: Write, tmp_path: Path) -> None:
    deeper = ONE.with_columns(pl.concat_str(pl.lit("batch1/cropped_aligned/"), "image").alias("image"))
    release = text_file("list.txt", "v/00001.jpg")
    write_submission(deeper, release, tmp_path / "out.txt", "va")
    assert (tmp_path / "out.txt").read_text().splitlines()[1] == "v/00001.jpg,-0.250000,0.000000"


def test_an_index_serves_as_the_list(text_file: Write, tmp_path: Path) -> None:
    truth = text_file("validation_set_annotations.txt", MTL, f"w/00007.jpg,0,0,-1,{ZEROS}")
    write_submission(ONE, truth, tmp_path / "out.txt", "va")
    assert (tmp_path / "out.txt").read_text().splitlines()[1:] == ["w/00007.jpg,0.000000,1.000000"]
    build_index(truth).write_parquet(tmp_path / "index.parquet")
    write_submission(ONE, tmp_path / "index.parquet", tmp_path / "again.txt", "va")
    assert (tmp_path / "again.txt").read_text() == (tmp_path / "out.txt").read_text()
    text_file("MTL.txt", "v/00002.jpg,")
    write_submission(ONE, tmp_path, tmp_path / "test.txt", "va")  # the tree has a test split
    assert (tmp_path / "test.txt").read_text().splitlines()[1:] == ["v/00002.jpg,0.500000,-0.500000"]


def test_only_the_rows_of_a_split_are_expected(text_file: Write, tmp_path: Path) -> None:
    row = "{},0.1,0.2,-1,{}".format
    text_file("s/training_set_annotations.txt", MTL, row("v/00001.jpg", ZEROS), row("not-predicted/00001.jpg", ZEROS))
    text_file("s/validation_set_annotations.txt", MTL, row("w/00007.jpg", ZEROS))
    build_index(tmp_path / "s").write_parquet(tmp_path / "index.parquet")
    out = tmp_path / "out.txt"
    for index in (tmp_path / "index.parquet", tmp_path / "s", tmp_path / "s" / "validation_set_annotations.txt"):
        assert write_submission(ONE, index, out, "va", split="val") == {"rows": 1, "videos": 1, "filled": 0}
        assert out.read_text().splitlines()[1:] == ["w/00007.jpg,0.000000,1.000000"]
    with pytest.raises(InputError, match="1 of 3 images have no prediction: not-predicted/00001"):
        write_submission(ONE, tmp_path / "index.parquet", out, "va")
    with pytest.raises(InputError, match="holds no frame of split 'test'; it has train, val"):
        write_submission(ONE, tmp_path / "index.parquet", out, "va", split="test")
    with pytest.raises(InputError, match="a list without splits; leave out --split"):
        write_submission(ONE, text_file("list.txt", "w/00007.jpg"), out, "va", split="val")


def test_thresholds(text_file: Write, tmp_path: Path) -> None:
    release, out = text_file("list.txt", "v/00001.jpg"), tmp_path / "out.txt"
    write_submission(ONE, release, out, "au", {"AU4": 0.1})
    assert out.read_text().splitlines()[1] == "v/00001.jpg,0,0,1" + ",0" * 9
    write_submission(ONE, release, out, "au", 0.4)
    assert out.read_text().splitlines()[1] == "v/00001.jpg,1,1,0" + ",1" * 9


@pytest.mark.parametrize("track", TRACKS)
def test_a_submission_reads_as_it_was_written(text_file: Write, tmp_path: Path, track: str) -> None:
    images = [f"{video}/{i:05d}.jpg" for video in ("v", "w") for i in range(1, 6)]
    table = predicted(images)
    save_predictions(table, tmp_path / "p.parquet")
    out = tmp_path / ("out" if track.endswith("videos") else "out.txt")
    write_submission(tmp_path / "p.parquet", text_file("list.txt", *images), out, track)
    again = read_submission(out)
    assert again["image"].to_list() == images
    expected = {"image": table["image"]}
    if "va" in TRACKS[track]:
        expected |= {name: table[name].round(6) for name in ("valence", "arousal")}
    if "expr" in TRACKS[track]:
        likeliest = table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
        expected |= dict(zip(PREDICTION_COLUMNS["expr"], np.eye(8)[likeliest].T, strict=True))
    if "au" in TRACKS[track]:
        expected |= {name: (table[name] >= 0.5).cast(pl.Float64) for name in ACTION_UNITS}
    assert_frame_equal(again, pl.DataFrame(expected))


def test_a_submission_that_predicts_nothing_is_refused(text_file: Write) -> None:
    path = text_file("a.txt", "image_location,valence,arousal", "v/00001.jpg,0,0", "v/00002.jpg,-5,-5")
    with pytest.raises(InputError, match=r"1 rows predict no va, first 'v/00002\.jpg'"):
        read_submission(path)
    with pytest.raises(InputError, match=r":2: valence is '1\.2'"):
        read_submission(text_file("b.txt", "image_location,valence,arousal", "v/00001.jpg,1.2,0"))
    with pytest.raises(InputError, match="no such submission"):
        read_submission("nowhere.txt")


def test_of_a_repeated_image_the_first_row_is_kept(text_file: Write) -> None:
    path = text_file("a.txt", "v/00001.jpg,0.5,0", "v/00001.jpg,0.4,0", "v/00002.jpg,0.3,0")
    assert read_submission(path)["valence"].to_list() == [0.5, 0.3]


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_no_value_is_ever_written_with_an_exponent(
    tmp_path_factory: pytest.TempPathFactory, v: float, a: float
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "list.txt").write_text("v/00001.jpg\n")
    table = pl.DataFrame({"image": ["v/00001.jpg"], "valence": [v], "arousal": [a]})
    write_submission(table, folder / "list.txt", folder / "out.txt", "va")
    _, valence, arousal = (folder / "out.txt").read_text().splitlines()[1].split(",")
    assert "e" not in valence + arousal
    assert abs(float(valence) - v) <= 5.1e-7
    assert abs(float(arousal) - a) <= 5.1e-7
