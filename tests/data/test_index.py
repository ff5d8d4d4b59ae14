"""From raw layouts to the index; leaks and subsets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from raw_layout import FOLDERS, MTL, ZEROS
from triaffect import __version__
from triaffect.data.index import (
    build_index,
    find_leaks,
    load_index,
    provenance,
    read_annotations,
    save_index,
    save_subset,
    source_video,
    split_leaks,
    subset,
)
from triaffect.data.layout import SCHEMA
from triaffect.io import InputError
from triaffect.labels import INDEX_COLUMNS

Write = Callable[..., Path]


@pytest.mark.parametrize("edition", FOLDERS)
@pytest.mark.parametrize("train", ["Train_Set", "Training_Set"])
def test_tasks_are_joined_on_video_and_frame(video_file: Write, crops: Write, edition: str, train: str) -> None:
    video_file("a", "va", ["0.5,0.25", "-5,-5", "-5,0.1", "0,0"], train, edition)
    video_file("a", "expr", ["3", "-1"], train, edition)
    root = video_file("b", "au", [ZEROS, "-1" + ",1" * 11], "Validation_Set", edition)
    images = crops("a", [1, 3])
    index = build_index(root, images)
    assert index.columns == list(INDEX_COLUMNS)
    assert index.schema == SCHEMA
    keys = ["image", "split", "exists", "valence", "arousal", "expression", "AU1", "AU26"]
    assert index.select(keys).rows() == [
        ("a/00001.jpg", "train", True, 0.5, 0.25, 3, None, None),
        ("a/00002.jpg", "train", False, None, None, None, None, None),
        ("a/00003.jpg", "train", True, None, 0.1, None, None, None),
        ("a/00004.jpg", "train", False, 0.0, 0.0, None, None, None),
        ("b/00001.jpg", "val", False, None, None, None, 0, 0),
        ("b/00002.jpg", "val", False, None, None, None, None, 1),
    ]
    assert index["frame"].to_list() == [1, 2, 3, 4, 1, 2]


def test_one_edition_inside_its_parent_folder_with_the_mtl_file(
    video_file: Write, text_file: Write, tmp_path: Path
) -> None:
    video_file("a", "expr", ["3", "4"], edition="abaw3")
    mtl = text_file("annotations/MTL_Challenge/train_set.txt", MTL, f"a/00002.jpg,0,0,4,{ZEROS}")
    reading = read_annotations(tmp_path)
    assert (reading.format, reading.index.height) == ("per-video", 2)
    assert [cases for message, cases in reading.notices.items() if "--format mtl" in message] == [[str(mtl)]]
    assert build_index(tmp_path, format="mtl").select("image", "split").rows() == [("a/00002.jpg", "train")]
    with pytest.raises(InputError, match="holds no annotations of format list"):
        build_index(tmp_path, format="list")
    with pytest.raises(InputError, match="no format 'mlt'"):
        build_index(tmp_path, format="mlt")


def test_two_editions_under_one_root_are_refused(video_file: Write, text_file: Write, tmp_path: Path) -> None:
    video_file("a", "va", ["0,0"], edition="abaw2")
    root = video_file("a", "va", ["0,0"], edition="abaw6")
    with pytest.raises(InputError, match="name the folder of one edition"):
        build_index(root)
    for name in ("x/training_set_annotations.txt", "y/train_set.txt"):
        text_file(f"mtl/{name}", MTL, f"v/00001.jpg,0,0,0,{ZEROS}")
    with pytest.raises(InputError, match="name the folder of one edition"):
        build_index(tmp_path / "mtl")


def test_a_task_or_split_folder_is_a_root_too(video_file: Write) -> None:
    root = video_file("a", "va", ["0,0"])
    index = build_index(root)
    assert index["exists"].to_list() == [None]  # no images, nothing to say
    folder = next(root.iterdir())
    assert_frame_equal(build_index(folder), index)
    assert_frame_equal(build_index(folder / "Train_Set"), index)
    assert_frame_equal(build_index(folder / "Train_Set" / "a.txt"), index)


def test_loose_per_video_files_have_no_split(text_file: Write, tmp_path: Path) -> None:
    text_file("truth/a.txt", "valence,arousal", "0.5,0.5")
    text_file("truth/b.txt", *[ZEROS] * 2)
    index = build_index(tmp_path / "truth")
    assert index.select("image", "split", "valence", "AU1").rows() == [
        ("a/00001.jpg", None, 0.5, None),
        ("b/00001.jpg", None, None, 0),
        ("b/00002.jpg", None, None, 0),
    ]


def test_a_video_may_be_in_different_splits_by_task(video_file: Write) -> None:
    video_file("a", "va", ["0,0"], "Train_Set")
    reading = read_annotations(video_file("a", "expr", ["1"], "Validation_Set"))
    assert reading.index.select("split", "valence", "expression").rows() == [("train", 0.0, None), ("val", None, 1)]
    assert reading.notices == {"video in more than one split, by task": ["a"]}
    assert [leak["splits"] for leak in split_leaks(reading.index)] == [["train", "val"]]


def test_s_aff_wild2_rows_are_in_the_order_of_the_file(text_file: Write, crops: Write, tmp_path: Path) -> None:
    row = f"12/00041.jpg,-5.0,-5.0,-1,{ZEROS}"
    text_file("s/training_set_annotations.txt", MTL, f"9/00005.jpg,0.1,0.2,7,{ZEROS}", row, row)
    text_file("s/validation_set_annotations.txt", MTL, f"46-30-484x360_left/00001.jpg,0,0,0,{ZEROS}")
    text_file(
        "s/MTL_Challenge_test_set_release.txt", "image,valence,arousal,expression,aus", "t/00002.jpg", "t/00002.jpg"
    )
    crops("12", [41], root="s/cropped_aligned")
    reading = read_annotations(tmp_path / "s")  # the crops are found next to the annotations
    assert reading.images == tmp_path / "s" / "cropped_aligned"
    assert reading.index.select("image", "video", "frame", "split", "exists", "valence").rows() == [
        ("9/00005.jpg", "9", 5, "train", False, 0.1),
        ("12/00041.jpg", "12", 41, "train", True, None),
        ("12/00041.jpg", "12", 41, "train", True, None),
        ("46-30-484x360_left/00001.jpg", "46-30-484x360_left", 1, "val", False, 0.0),
        ("t/00002.jpg", "t", 2, "test", False, None),
        ("t/00002.jpg", "t", 2, "test", False, None),
    ]
    assert reading.index.schema == SCHEMA
    assert load_index(tmp_path / "s", "test").height == 2
    assert load_index(tmp_path / "s" / "validation_set_annotations.txt")["split"].to_list() == ["val"]


def test_a_test_list_alone(text_file: Write) -> None:
    index = build_index(text_file("MTL.txt", "t/00001.jpg,", "t/00003.jpg,"))
    assert index.select("image", "split").rows() == [("t/00001.jpg", "test"), ("t/00003.jpg", "test")]
    assert index.schema == SCHEMA
    assert index.select(INDEX_COLUMNS[5:]).null_count().row(0) == (2,) * 15


def test_test_lists_beside_per_video_files(video_file: Write, text_file: Write, crops: Write) -> None:
    root = video_file("a", "va", ["0,0"])
    text_file("annotations/VA_test_set_release.txt", "t", "u", "v,3", "nowhere")
    sample = "annotations/CVPR_8th_ABAW_{}_test_set_sample.txt".format
    text_file(sample("VA"), "image_location,valence,arousal", "u/00001.jpg,0,0", "w/00001.jpg,0,0")
    text_file(sample("AU"), "image_location,AU1", "w/00001.jpg,0", "w/00002.jpg,0")
    images = crops("t", [2])
    reading = read_annotations(root, images)
    tests = reading.index.filter(pl.col("split") == "test")
    assert tests["image"].to_list() == [
        *("t/00001.jpg", "t/00002.jpg"),  # up to the last crop
        *("v/00001.jpg", "v/00002.jpg", "v/00003.jpg"),
        *("w/00001.jpg", "w/00002.jpg", "u/00001.jpg"),  # listed frame by frame
    ]
    assert tests["exists"].to_list() == [False, True, *[False] * 6]
    assert tests["valence"].null_count() == len(tests)
    assert [cases for message, cases in reading.notices.items() if "no rows" in message] == [["nowhere"]]


def test_crops_spread_over_folders(video_file: Write, crops: Write) -> None:
    for video in "abcd":
        root = video_file(video, "expr", ["1", "2", "3"])
    crops("a", [1], "batch1")
    crops("a", [1, 2], "batch2")  # one video over two
    crops("b", [3], "batch1 (1)/cropped_aligned")
    crops("c", [2], "cropped")
    crops("other", [1, 2], "batch1")
    images = crops("c", [1], "cropped_aligned")
    index = build_index(root, images)
    assert index["image"].to_list() == [
        "batch1/a/00001.jpg",
        "batch2/a/00002.jpg",
        "batch1/a/00003.jpg",
        *(f"batch1 (1)/cropped_aligned/b/0000{i}.jpg" for i in (1, 2, 3)),
        "cropped_aligned/c/00001.jpg",
        "cropped/c/00002.jpg",
        "cropped_aligned/c/00003.jpg",
        *(f"d/0000{i}.jpg" for i in (1, 2, 3)),
    ]
    assert index["exists"].to_list() == [(images / image).exists() for image in index["image"]]
    assert index["exists"].sum() == 5
    mtl = images.parent / "train_set.txt"
    mtl.write_text("\n".join([MTL, *(f"{v}/0000{i}.jpg,0,0,0,{ZEROS}" for v in "abcd" for i in (1, 2, 3))]))
    assert_frame_equal(build_index(mtl, images).select("image", "exists"), index.select("image", "exists"))


def test_more_lines_than_crops_and_more_crops_than_lines(video_file: Write, crops: Write) -> None:
    root = video_file("a", "expr", ["1", "2", "3"])
    crops("a", [1, 2, 3, 4, 9])
    (crops("a", []) / "a" / "Thumbs.db").touch()
    (crops("a", []) / "a" / "1.jpg").touch()
    reading = read_annotations(root, crops("a", []))
    assert reading.index["exists"].to_list() == [True] * 3
    assert reading.notices == {"more crops than lines": ["a"]}


def test_frames_beyond_99999(video_file: Write, crops: Write) -> None:
    root = video_file("a", "expr", ["0"] * 100_001)
    index = build_index(root, crops("a", [99_999, 100_000, 100_001]))
    assert index["image"][-3:].to_list() == ["a/99999.jpg", "a/100000.jpg", "a/100001.jpg"]
    assert index["exists"][-4:].to_list() == [False, True, True, True]


def test_left_and_right_are_two_videos_of_one_source(video_file: Write, crops: Write) -> None:
    video_file("9_left", "expr", ["1"])
    root = video_file("9_right", "expr", ["2"])
    index = build_index(root, crops("9_right", [1]))
    assert index.select("video", "expression", "exists").rows() == [("9_left", 1, False), ("9_right", 2, True)]


def test_files_that_are_no_annotations_are_passed_over(video_file: Write, text_file: Write) -> None:
    root = video_file("a", "va", ["0,0"])
    readme = text_file("annotations/ReadMe.txt", "This is Aff-Wild2, the database.", "Cite us.")
    other = text_file("annotations/my_submission.txt", MTL, f"v/00001.jpg,0,0,0,{ZEROS}")
    text_file("annotations/VA_Estimation_Challenge/Train_Set/._a.txt", data=b"\x00\x05\x16\x07")  # macOS
    reading = read_annotations(root)
    assert reading.index["video"].to_list() == ["a"]
    assert reading.notices == {"no annotations of a known split: passed over": [str(readme), str(other)]}


@pytest.mark.parametrize("name", ["training_set_annotations.txt", "MTL_Challenge/train_set.txt", "MTL.txt"])
def test_a_file_with_an_official_name_is_never_passed_over(text_file: Write, tmp_path: Path, name: str) -> None:
    text_file("s/validation_set_annotations.txt", MTL, f"v/00001.jpg,0,0,0,{ZEROS}")
    path = text_file(f"s/{name}", "im\u00e2ge;valence", f"v/00001.jpg,0,0,0,{ZEROS}")
    with pytest.raises(InputError, match=re.escape(f"{path}:1: ")):
        build_index(tmp_path / "s")


def test_release_lists_inside_a_tasks_test_folder(video_file: Write, text_file: Write) -> None:
    root = video_file("a", "va", ["0,0"])
    text_file("annotations/VA_Estimation_Challenge/Test_Set/names/VA_Challenge_test_set_release.txt", "t,1")
    assert build_index(root).select("image", "split").rows() == [("a/00001.jpg", "train"), ("t/00001.jpg", "test")]


def test_a_file_name_that_is_no_utf8(video_file: Write) -> None:
    root = video_file("a", "va", ["0,0"])
    name = os.fsencode(root / "VA_Estimation_Challenge" / "Train_Set") + b"/\xe9.txt"
    with open(name, "wb") as file:
        file.write(b"0,0\n")
    with pytest.raises(InputError, match="the file's name is not UTF-8"):
        build_index(root)


def test_empty_and_wholly_missing_files(video_file: Write, text_file: Write) -> None:
    video_file("a", "expr", ["-1", "-1"])
    root = video_file("a", "va", ["-5,-5"])
    text_file("annotations/EXPR_Recognition_Challenge/Train_Set/b.txt", data=b"")
    reading = read_annotations(root)
    assert reading.index["video"].to_list() == ["a", "a"]
    assert reading.index["expression"].null_count() == 2
    assert set(reading.notices) == {"tasks differ in length", "empty file"}


@pytest.mark.parametrize("missing", ["root", "images", "annotations"])
def test_a_missing_path_is_named(video_file: Write, tmp_path: Path, missing: str) -> None:
    root = video_file("a", "va", ["0,0"])
    if missing == "root":
        with pytest.raises(InputError, match="no such file or folder"):
            build_index(tmp_path / "x")
    elif missing == "images":
        with pytest.raises(InputError, match="no such folder; name the one"):
            build_index(root, tmp_path / "x")
    else:
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no annotations; expected VA_Set"):
            build_index(tmp_path / "empty")


# Saving and loading.


def test_saved_and_loaded(video_file: Write, crops: Write, tmp_path: Path) -> None:
    root = video_file("a", "va", ["0.1,0.2", "-5,-5"])
    index, path = build_index(root, crops("a", [1])), tmp_path / "out" / "index.parquet"
    save_index(index, path, root=root, images=tmp_path / "images", format="per-video")
    assert_frame_equal(load_index(path), index)
    info = provenance(path)
    assert info == {
        "root": str(root),
        "images": str(tmp_path / "images"),
        "format": "per-video",
        "version": __version__,
    }
    foreign = pyarrow.parquet.read_table(path)
    assert foreign["valence"].to_pylist() == [0.1, None]
    assert provenance(root) == {}
    with pytest.raises(InputError, match="holds no frame of split 'val'; it has train"):
        load_index(path, "val")


def test_a_broken_index_is_refused(tmp_path: Path, video_file: Write) -> None:
    path = tmp_path / "index.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"index\.parquet: cannot be read as Parquet"):
        load_index(path)
    index = build_index(video_file("a", "va", ["0,0"])).with_columns(image=pl.lit("a/../../secret.jpg"))
    save_index(index, path, root="r", images=None, format="per-video")
    with pytest.raises(InputError, match="leaves the image root"):
        load_index(path)


# Generic tables.


def test_a_table_needs_only_images(text_file: Write, crops: Write, tmp_path: Path) -> None:
    path = text_file("faces.csv", "image,expression,sex,split", "x/00003.jpg,6,f,train", "x/b.png,,m,val", "c.png,0,f,")
    index = build_index(path)
    assert index.columns == [*INDEX_COLUMNS, "sex"]
    assert index.select("image", "video", "frame", "split", "exists", "expression", "sex").rows() == [
        ("x/00003.jpg", "x/00003.jpg", 3, "train", None, 6, "f"),
        ("x/b.png", "x/b.png", 1, "val", None, None, "m"),
        ("c.png", "c.png", 1, None, None, 0, "f"),
    ]
    assert index.select(INDEX_COLUMNS).schema == SCHEMA
    assert load_index(path, "val").height == 1
    crops("x", [3], root=".")
    (tmp_path / "c.png").touch()
    assert build_index(path)["exists"].to_list() == [True, False, True]  # next to the table
    parquet = tmp_path / "table.parquet"
    index.drop("exists").write_parquet(parquet)
    assert_frame_equal(load_index(parquet).drop("exists"), index.drop("exists"))


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,expression", "a.png,-3", ":3: expression is '-3' (1 such row); write a whole number from 0 to 7"),
        ("image,expression", "a.png,2.5", ":3: expression is '2.5'"),
        ("image,expression", "a.png,Bored", ":3: expression is 'Bored'"),
        ("image,valence", "a.png,-3", ":3: valence is '-3' (1 such row); write a number from -1 to 1, and nothing"),
        ("image,AU4", "a.png,2", ":3: AU4 is '2'"),
        ("image,split", "a.png,held", ":3: split is 'held'"),
        ("image,frame", "a.png,0.5", ":3: frame is '0.5'"),
        ("image,sex", "/a.png,f", ":3: image is '/a.png' (1 such row); use a path relative"),
        ("image,sex", "x/../../a.png,f", ":3: image is "),
        ("image,sex", ",f", ":3: image is None"),
        ("face,sex", "a.png,f", ": has no column 'image'"),
    ],
)
def test_an_illegal_cell_of_a_table_is_named(text_file: Write, header: str, row: str, message: str) -> None:
    path = text_file("faces.csv", header, "first.png,", row)
    with pytest.raises(InputError, match=re.escape(f"{path}{message}")):
        build_index(path)


def test_nan_is_missing_in_a_parquet_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"image": ["a.png", "b.png"], "valence": [0.5, float("nan")], "AU1": [1.0, None]}).write_parquet(path)
    assert build_index(path).select("valence", "AU1").rows() == [(0.5, 1), (None, None)]


def test_a_csv_of_s_aff_wild2_is_no_table(text_file: Write) -> None:
    index = build_index(text_file("validation.csv", MTL, f"v/00001.jpg,-5,-5,-1,{ZEROS}"))
    assert index.select("split", "valence", "AU26").rows() == [("val", None, 0)]


# Leaks and subsets.


def test_source_video() -> None:
    # `if '_left' or '_right' in name` and `name.rstrip('_left')` are both in public code.
    assert [source_video(v) for v in ("10-60-1280x720", "10-60-1280x720_right")] == ["10-60-1280x720"] * 2
    assert [source_video(v) for v in ("video59", "video59_right", "video2_left")] == ["video59", "video59", "video2"]
    assert source_video("left_felt") == "left_felt"
    assert source_video("46-30-484x360_left") == "46-30-484x360"


def test_leaks_name_both_sides() -> None:
    a = pl.DataFrame({"video": ["1_left", "1_left", "2", "3", "video2"]})
    b = pl.DataFrame({"video": ["1_right", "1_left", "4", "video2_left"]})
    assert find_leaks(a, b).rows() == [
        ("1", ["1_left"], ["1_left", "1_right"]),
        ("video2", ["video2"], ["video2_left"]),
    ]
    assert find_leaks(a, pl.DataFrame({"video": ["5"]})).columns == ["source", "videos_a", "videos_b"]
    assert find_leaks(a, pl.DataFrame({"video": ["5"]})).height == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.floats(0.01, 1), st.integers(0, 5))
def test_subset_draws_by_frame_or_by_video(videos: list[int], fraction: float, seed: int) -> None:
    index = pl.DataFrame({"video": [str(v) for v in videos], "row": range(len(videos))})
    drawn = subset(index, fraction, seed=seed)
    assert drawn.height == max(1, round(fraction * len(videos)))
    assert drawn["row"].is_sorted()
    assert drawn["row"].is_unique().all()
    assert_frame_equal(drawn, subset(index, fraction, "frame", seed))
    by_video = subset(index, fraction, "video", seed)
    names = by_video["video"].unique().to_list()
    assert len(names) == max(1, round(fraction * len(set(videos))))
    assert_frame_equal(by_video, index.filter(pl.col("video").is_in(names)))


def test_subset_depends_on_the_seed_and_refuses_nonsense() -> None:
    index = pl.DataFrame({"video": ["a"] * 100, "row": range(100)})
    assert subset(index, 0.3, seed=1)["row"].to_list() != subset(index, 0.3, seed=2)["row"].to_list()
    assert_frame_equal(subset(index, 1.0), index)
    for fraction in (0, -1, 1.1, float("nan")):
        with pytest.raises(InputError, match="is not above 0"):
            subset(index, fraction)
    with pytest.raises(InputError, match="draw by frame or by video"):
        subset(index, 0.5, "file")  # type: ignore[arg-type]


def test_a_subset_keeps_its_origin_and_scores_say_of_how_many_rows(make, tmp_path):
    from triaffect.metrics.scores import score

    predictions, index = make(0)
    full_path, part = tmp_path / "i.parquet", tmp_path / "part.parquet"
    save_index(index, full_path, root=tmp_path, images=tmp_path, format="table")
    rows = save_subset(full_path, part, "val", fraction=0.5, stride=2, seed=3)
    strided = index.filter(pl.int_range(pl.len()).over("video") % 2 == 0)
    assert rows.height == round(strided.height / 2)
    assert rows.equals(subset(strided, 0.5, seed=3))
    assert load_index(part).equals(rows)
    assert provenance(part) == provenance(full_path) | {"part_of": index.height}
    signature = score(predictions, part, resamples=0).signature
    assert f"|split:val,{rows.height}/{index.height}|" in signature
    with pytest.raises(InputError, match="stride 0"):
        subset(index, stride=0)
