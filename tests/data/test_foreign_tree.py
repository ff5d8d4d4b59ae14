"""Trees that somebody else wrote from the description of the formats: the right rows, or one line that says why not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import triaffect
from tree_writer import (
    EVERYTHING,
    HEADERS,
    LAYOUTS,
    MTL_HEADER,
    MULTI_ONLY,
    MULTI_TASK,
    SHAPE,
    TEXT,
    UNI_ONLY,
    UNI_TASK,
    Tree,
    write_tree,
)
from triaffect.cli.main import main
from triaffect.data.index import find_leaks, source_video
from triaffect.labels import ACTION_UNITS, INDEX_COLUMNS

SCHEMA: dict[str, Any] = dict.fromkeys(INDEX_COLUMNS, pl.Int8)
SCHEMA |= {"image": pl.String, "video": pl.String, "split": pl.String, "frame": pl.Int32, "exists": pl.Boolean}
SCHEMA |= {"valence": pl.Float64, "arousal": pl.Float64}

# Everything but the 100,003 lines, which have their own test, and the empty release list, which hides the filled one.
MOST = EVERYTHING | {"long": False, "empty": False}


def assert_rows(index: pl.DataFrame, rows: list[dict[str, Any]]) -> None:
    """The same rows as often, keyed by (split, image): values, nulls and types exact, order left out."""
    expected = pl.DataFrame(rows, schema=SCHEMA)
    keys = ("split", "image")
    missed = expected.select(keys).unique().join(index.select(keys), on=keys, how="anti")
    invented = index.select(keys).unique().join(expected.select(keys), on=keys, how="anti")
    assert (missed.head(3).rows(), invented.head(3).rows()) == ([], [])
    by = list(INDEX_COLUMNS)
    assert_frame_equal(index.select(by).sort(by), expected.sort(by), check_exact=True)


# ------------------------------------------------------------------------------------------------ the writer has teeth


def test_the_writer_writes_what_it_promises(tmp_path: Path) -> None:
    def texts_of(layout: str, seed: int) -> list[bytes]:
        tree = write_tree(tmp_path / f"{layout}-{seed}", layout, seed, crops=False, **MOST | {"empty": seed == 1})
        return [path.read_bytes() for path in tree.files.values()]

    uni = texts_of("abaw6", 1)
    multi = [text for layout in MULTI_TASK for seed in (1, 2) for text in texts_of(layout, seed)]
    for texts in (uni, multi):
        assert any(t.startswith(b"\xef\xbb\xbf") for t in texts)
        assert any(b"\r\n" in t for t in texts)
        assert any(b"\r" not in t for t in texts)
        assert any(not t.endswith(b"\n") for t in texts)
        assert any(re.search(rb",\r?\n", t) for t in texts)
        assert any(re.search(rb"\n\s*\n\S", t) for t in texts)
        assert all(any(re.search(rb"(?m)(^|,)%s," % mark, t) for t in texts) for mark in (b"-5", rb"-5\.0", rb"-5\.00"))
        assert b"" in texts


# -------------------------------------------------------------------------------------------------------------- legal


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout)
    index = triaffect.build_index(tree.root, images=tree.images)
    assert tuple(index.columns) == INDEX_COLUMNS
    assert dict(index.schema) == SCHEMA
    assert_rows(index, tree.rows)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if ({**UNI_TASK, **MULTI_TASK}[name])[0]])
def test_the_editions_own_folder(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout)
    assert tree.inner != tree.root
    assert_rows(triaffect.build_index(tree.inner, images=tree.images), tree.rows)


@pytest.mark.parametrize("irregularity", [*TEXT, *(s for s in SHAPE if s != "long"), *UNI_ONLY])
@pytest.mark.parametrize("layout", ["abaw1", "abaw6"])
def test_one_irregularity_of_per_video_files(layout: str, irregularity: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, seed=7, **{irregularity: True})
    assert_rows(triaffect.build_index(tree.root, images=tree.images), tree.rows)


@pytest.mark.parametrize("irregularity", [*TEXT, *SHAPE, *MULTI_ONLY])
@pytest.mark.parametrize("layout", ["abaw4", "abaw7"])
def test_one_irregularity_of_multi_task_files(layout: str, irregularity: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, seed=7, **{irregularity: True})
    assert_rows(triaffect.build_index(tree.root, images=tree.images), tree.rows)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_at_once(layout: str, seed: int, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, seed, **MOST | {"empty": seed == 1})
    assert_rows(triaffect.build_index(tree.root, images=tree.images), tree.rows)


def test_frames_above_99999(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, "abaw8", long=True)
    index = triaffect.build_index(tree.root, images=tree.images)
    assert_rows(index, tree.rows)
    assert index.filter(video="long")["frame"].to_list() == list(range(1, 100_004))
    assert index.filter(video="long", exists=True)["image"].to_list() == [
        "long/00001.jpg",
        "long/99999.jpg",
        "long/100000.jpg",
        "long/100003.jpg",
    ]


@pytest.mark.parametrize("layout", UNI_TASK)
def test_one_task_alone(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, crops=False)
    expr, au = (next(p for (task, *_), p in tree.files.items() if task == name).parents[1] for name in ("expr", "au"))
    shutil.rmtree(au)
    index = triaffect.build_index(tree.root, images=tree.images)
    assert_rows(index, [row | dict.fromkeys(ACTION_UNITS) for row in tree.rows])
    shutil.rmtree(expr)
    index = triaffect.build_index(tree.root, images=tree.images)
    assert_rows(index, [row | dict.fromkeys((*ACTION_UNITS, "expression")) for row in tree.rows])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_split_alone(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, crops=False)
    for (_, split, _), path in tree.files.items():
        if split != "val":
            path.unlink()
    index = triaffect.build_index(tree.root, images=tree.images)
    assert_rows(index, [row for row in tree.rows if row["split"] == "val"])


@pytest.mark.parametrize("layout", ["abaw6", "abaw4"])
def test_without_images_the_labels_are_the_same(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, partial=True, missing_crops=True)
    index = triaffect.build_index(tree.root)
    expected = pl.DataFrame(tree.rows, schema=SCHEMA)
    by = [name for name in INDEX_COLUMNS if name != "exists"]
    assert_frame_equal(index.select(by).sort(by), expected.select(by).sort(by), check_exact=True)


@pytest.mark.parametrize("layout", ["abaw1", "abaw6", "abaw4", "abaw7"])
def test_order_of_the_files(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, seed=3, **MOST)
    index = triaffect.build_index(tree.root, images=tree.images)
    videos = index.select("split", "video").rows()
    assert len(set(videos)) == sum(a != b for a, b in zip(videos, [None, *videos], strict=False))  # each in one piece
    for (_, _), frames in index.group_by(["split", "video"], maintain_order=True):
        assert frames["frame"].is_sorted()
    if layout in MULTI_TASK:
        for split in ("train", "val", "test"):
            expected = [row["image"] for row in tree.rows if row["split"] == split]
            assert index.filter(split=split)["image"].to_list() == expected


def test_third_edition_with_both_kinds_of_files(tmp_path: Path) -> None:
    uni, multi = write_tree(tmp_path, "abaw3"), write_tree(tmp_path, "abaw3-mtl")
    both = uni.inner / "MTL_Challenge"
    shutil.copytree(multi.inner, both)
    assert_rows(triaffect.build_index(both, images=multi.images), multi.rows)
    try:
        index = triaffect.build_index(uni.inner, images=uni.images)
    except triaffect.InputError as error:  # asking which one is meant is as good as taking the per-video files
        assert "format" in str(error)  # noqa: PT017
    else:
        assert_rows(index, uni.rows)


@pytest.mark.parametrize("layout", ["abaw10", "abaw11"])
def test_command_line(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, seed=5, **MOST)
    out = tmp_path / "index.parquet"
    assert main(["index", str(tree.root), "--images", str(tree.images), "--out", str(out)]) == 0
    assert_rows(pl.read_parquet(out), tree.rows)
    assert_rows(triaffect.load_index(out, split="val"), [row for row in tree.rows if row["split"] == "val"])


# ------------------------------------------------------------------------------------------------------- two of a video


@pytest.mark.parametrize(
    ("video", "source"),
    [
        ("46-30-484x360_left", "46-30-484x360"),
        ("46-30-484x360_right", "46-30-484x360"),
        ("10-60-1280x720", "10-60-1280x720"),
        ("10-60-1280x720_right", "10-60-1280x720"),
        ("video59_right", "video59"),
        ("video2_left", "video2"),
        ("122-60-1920x1080-1", "122-60-1920x1080-1"),
        ("12", "12"),
    ],
)
def test_source_video(video: str, source: str) -> None:
    assert source_video(video) == source


@pytest.mark.parametrize("layout", ["abaw6", "abaw4"])
def test_leaks_between_the_splits(layout: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, layout, crops=False, halves=True, across=True)
    index = triaffect.build_index(tree.root, images=tree.images)
    leaks = {
        source: (sorted(a), sorted(b))
        for source, a, b in find_leaks(index.filter(split="train"), index.filter(split="val"))
        .select("source", "videos_a", "videos_b")
        .rows()
    }
    expected = {
        "46-30-484x360": (["46-30-484x360_right"], ["46-30-484x360_left"]),
        "6-30-1920x1080": (["6-30-1920x1080_left"], ["6-30-1920x1080_right"]),
    }
    if layout == "abaw6":
        expected["16-30-1920x1080"] = (["16-30-1920x1080"], ["16-30-1920x1080"])
    assert leaks == expected


# ------------------------------------------------------------------------------------------------------------- illegal

LINE = 17


class Bad(NamedTuple):
    """A line that no edition allows: its file, its text, the part that the message must show, and its number."""

    task: str
    text: str
    shown: str = ""
    line: int = LINE
    split: str = "train"


_AU = ",".join("010110001100")
_IMAGE = "12/00001.jpg"
_MTL = f"{_IMAGE},0.25,-0.5,3,{_AU}"
BAD = {
    "va: one field": Bad("va", "0.1"),
    "va: one field and a trailing comma": Bad("va", "0.1,"),
    "va: three fields": Bad("va", "0.1,0.2,0.3"),
    "va: a field is empty": Bad("va", ",0.2"),
    "va: no comma": Bad("va", "0.1 0.2"),
    "va: semicolon": Bad("va", "0.1;0.2"),
    "va: valence too high": Bad("va", "1.5,0.2", "1.5"),
    "va: arousal just too low": Bad("va", "0.2,-1.0001", "-1.0001"),
    "va: almost the mark of missing": Bad("va", "-5.5,0.2", "-5.5"),
    "va: five": Bad("va", "5,0.2", "5"),
    "va: infinite": Bad("va", "0.2,inf", "inf"),
    "va: a word": Bad("va", "0.2,high", "high"),
    "va: a quote that is never closed": Bad("va", '0.1,"0.2', "0.2"),
    "va: the header again": Bad("va", "valence,arousal", "valence"),
    "va: header of expression": Bad("va", ",".join(HEADERS["expr"]), line=1),
    "va: header of action units": Bad("va", ",".join(HEADERS["au"]), line=1),
    "va: header of nothing": Bad("va", "foo,bar", "foo", line=1),
    "va: one field before any header": Bad("va", "0.1", line=1),
    "va: out of range before any header": Bad("va", "0.1,-1.5", "-1.5", line=1),
    "expr: eight": Bad("expr", "8", "8"),
    "expr: minus two": Bad("expr", "-2", "-2"),
    "expr: a half": Bad("expr", "2.5", "2.5"),
    "expr: a word": Bad("expr", "joy", "joy"),
    "expr: two fields": Bad("expr", "3,4"),
    "expr: one of eight set": Bad("expr", "0,0,0,1,0,0,0,0"),
    "expr: header of valence-arousal": Bad("expr", "valence,arousal", line=1),
    "expr: header of action units": Bad("expr", ",".join(HEADERS["au"]), line=1),
    "au: eleven fields": Bad("au", _AU[2:]),
    "au: thirteen fields": Bad("au", _AU + ",0"),
    "au: eight fields under twelve names": Bad("au", "0,1,0,1,1,0,0,0"),
    "au: two": Bad("au", _AU[:-1] + "2", "2"),
    "au: a half": Bad("au", "0.5" + _AU[1:], "0.5"),
    "au: a field is empty": Bad("au", "0,,0,1,1,0,0,0,1,1,0,0"),
    "au: header of expression": Bad("au", ",".join(HEADERS["expr"]), line=1),
    "au: header of s-Aff-Wild2": Bad("au", ",".join(MTL_HEADER), line=1),
    "mtl: fifteen fields": Bad("mtl", _MTL[:-2]),
    "mtl: seventeen fields": Bad("mtl", _MTL + ",0"),
    "mtl: an image alone": Bad("mtl", _IMAGE),
    "mtl: valence too low": Bad("mtl", _MTL.replace("0.25", "-1.25"), "-1.25"),
    "mtl: expression eight": Bad("mtl", _MTL.replace(",3,", ",8,"), "8"),
    "mtl: action unit two": Bad("mtl", _MTL[:-1] + "2", "2"),
    "mtl: no image": Bad("mtl", _MTL.replace(_IMAGE, "")),
    "mtl: an image without a number": Bad("mtl", _MTL.replace("00001", "face"), "12/face.jpg"),
    "mtl: an image above the root": Bad("mtl", _MTL.replace(_IMAGE, "../00001.jpg"), "../00001.jpg"),
    "mtl: an image from elsewhere": Bad("mtl", _MTL.replace(_IMAGE, "/etc/00001.jpg"), "/etc/00001.jpg"),
    "mtl: header of valence-arousal": Bad("mtl", "valence,arousal", line=1, split="val"),
    "mtl: header of nothing": Bad("mtl", "foo,bar", line=1),
    "mtl: header of another task": Bad("mtl", ",".join(HEADERS["au"]), line=1),
    "mtl: fifteen fields before any header": Bad("mtl", _MTL[:-2], line=1),
    "mtl: out of range before any header": Bad("mtl", _MTL.replace("0.25", "1.25"), "1.25", line=1),
    "test: some labels": Bad("mtl", f"{_IMAGE},0.25,-0.5", split="test"),
    "test: an image above the root": Bad("mtl", "../../00001.jpg", "../../00001.jpg", split="test"),
}


def spoil(tree: Tree, bad: Bad, dress: str = "plain") -> Path:
    """Puts the bad line into one file, in plain dress or behind a BOM, blank lines and CRLF; gives the file."""
    path = next(p for (task, split, _), p in tree.files.items() if (task, split) == (bad.task, bad.split))
    lines = path.read_text().splitlines()
    if dress == "headless":
        del lines[0]
    if dress == "odd":
        for place in (0, 2, 6):
            lines.insert(place, "")
    lines[bad.line - 1] = bad.text
    if dress == "odd":
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    else:
        path.write_text("\n".join(lines) + "\n")
    return path


def assert_refused(tree: Tree, path: Path, line: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of InputError names file, line and value; the command says the same, exits 2 and writes nothing."""
    with pytest.raises(triaffect.InputError) as caught:
        triaffect.build_index(tree.root, images=tree.images)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    rest = re.sub(r"\S*" + re.escape(path.name), "", message)
    at = re.search(rf"{re.escape(path.name)}\W{{0,2}}(line )?{line}\b", message) or re.search(rf"\bline {line}\b", rest)
    assert at, f"line {line} is not named: {message}"
    assert shown in rest

    out = tree.root.parent / "out" / "index.parquet"
    capsys.readouterr()
    assert main(["index", str(tree.root), "--images", str(tree.images), "--out", str(out)]) == 2
    stderr = capsys.readouterr().err
    assert path.name in stderr
    assert stderr.count("\n") == 1
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("name", BAD)
def test_illegal_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = BAD[name]
    tree = write_tree(tmp_path, "abaw4" if bad.task == "mtl" else "abaw8", crops=False)
    assert_refused(tree, spoil(tree, bad), bad.line, bad.shown, capsys)


@pytest.mark.parametrize("dress", ["odd", "headless"])
@pytest.mark.parametrize(
    "name",
    [
        "va: three fields",
        "va: arousal just too low",
        "expr: eight",
        "expr: two fields",
        "au: two",
        "au: eleven fields",
        "mtl: fifteen fields",
        "mtl: valence too low",
        "mtl: an image above the root",
        "test: some labels",
    ],
)
def test_the_line_number_counts_every_line(
    name: str, dress: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[name]
    tree = write_tree(tmp_path, "abaw7" if bad.task == "mtl" else "abaw2", crops=False)
    assert_refused(tree, spoil(tree, bad, dress), bad.line, bad.shown, capsys)


@pytest.mark.parametrize("line", [1, LINE])
@pytest.mark.parametrize("layout", ["abaw8", "abaw4"])
def test_bytes_that_are_not_utf8(layout: str, line: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path, layout, crops=False)
    path = next(iter(tree.files.values()))
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = b"0.1\xff" + lines[line - 1]
    path.write_bytes(b"\n".join(lines))
    assert_refused(tree, path, line, "", capsys)


@pytest.mark.parametrize("layout", ["abaw8", "abaw4"])
def test_utf16(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path, layout, crops=False)
    path = next(iter(tree.files.values()))
    path.write_text(path.read_text(), encoding="utf-16")
    assert_refused(tree, path, 1, "", capsys)


def test_an_older_index_outlives_a_refusal(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, "abaw8", crops=False)
    spoil(tree, BAD["expr: eight"])
    out = tmp_path / "out" / "index.parquet"
    out.parent.mkdir()
    out.write_bytes(b"an older one")
    assert main(["index", str(tree.root), "--images", str(tree.images), "--out", str(out)]) == 2
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {"index.parquet": b"an older one"}


@pytest.mark.parametrize("task", ["va", "mtl"])
def test_nan_is_missing_or_refused_but_never_a_label(task: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, "abaw4" if task == "mtl" else "abaw8", crops=False)
    spoil(tree, Bad(task, _MTL.replace("0.25", "nan") if task == "mtl" else "nan,0.5"))
    try:
        index = triaffect.build_index(tree.root, images=tree.images)
    except triaffect.InputError as error:
        assert "nan" in str(error)  # noqa: PT017
    else:
        assert not index["valence"].is_nan().any()


@pytest.mark.parametrize("task", ["va", "au"])
def test_columns_in_another_order_are_never_swapped(task: str, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, "abaw8", partial=True, crops=False)
    for (name, _, _), path in tree.files.items():
        if name == task:
            rows = [",".join(reversed(line.split(","))) for line in path.read_text().splitlines()]
            path.write_text("\n".join(rows) + "\n")
    try:
        index = triaffect.build_index(tree.root, images=tree.images)
    except triaffect.InputError:
        return
    assert_rows(index, tree.rows)


@pytest.mark.parametrize("what", ["nowhere", "an empty folder", "a folder of something else"])
def test_no_annotations_there(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / what.replace(" ", "-")
    if what != "nowhere":
        root.mkdir()
    if what == "a folder of something else":
        (root / "notes").mkdir()
        (root / "notes" / "readme.txt").write_text("Nothing here is an annotation.\n")
    with pytest.raises(triaffect.InputError, match=re.escape(root.name)):
        triaffect.build_index(root)
    out = tmp_path / "index.parquet"
    assert main(["index", str(root), "--out", str(out)]) == 2
    assert root.name in capsys.readouterr().err
    assert not out.exists()
