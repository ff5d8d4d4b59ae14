"""Which files `analyze` reads: their content decides, what is left out is counted, numbers are in natural order."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from inference.test_analyze import run
from triaffect.inference.inputs import collect, natural_order, open_input
from triaffect.io import InputError
from worlds import film, jpeg, plain


def names(inputs):
    return [item.name.rpartition("/")[2] for item in inputs]


def test_content_decides_what_a_file_of_a_folder_is(tmp_path, capsys):
    folder = tmp_path / "in"
    jpeg(folder / "a.jpg_large")
    jpeg(folder / "b")
    film(folder / "c.dat", 4, pixels=lambda i: plain()).rename(folder / "c")
    Image.fromarray(plain()).save(folder / "d.jp2")
    for i, name in enumerate(("notes.txt", "table.csv", "code.ts", "readme")):
        (folder / name).write_text("a,b\n1,2\n" * (i + 1))
    (folder / "e.txt").write_text("text")
    (folder / ".DS_Store").write_bytes(b"\0" * 9)
    collection = collect([str(folder)])
    assert names(collection.inputs) == ["a.jpg_large", "b", "c", "d.jp2"]
    assert collection.notices == [
        f"{folder}: 6 files not read, neither photo nor video: 2 .txt, 1 hidden, 1 .ts, 1 without an ending, 1 .csv"
    ]
    assert run([folder], tmp_path / "out") == 0
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet").height == 7
    assert "note: " in capsys.readouterr().out


def test_a_damaged_photo_of_a_folder_fails_by_name(tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no photo")
    jpeg(tmp_path / "a.jpg")
    assert run([tmp_path]) == 1
    assert "broken.jpg: not a photo or video that can be read" in capsys.readouterr().err


def test_numbers_are_in_natural_order(tmp_path):
    for number in (1, 2, 10, 11, 100):
        jpeg(tmp_path / f"s{number % 2}" / f"frame{number}.jpg")
    collection = collect([str(tmp_path)])
    assert names(collection.inputs) == ["frame2.jpg", "frame10.jpg", "frame100.jpg", "frame1.jpg", "frame11.jpg"]
    collection = collect([str(tmp_path / "s0" / "*.jpg")])
    assert names(collection.inputs) == ["frame2.jpg", "frame10.jpg", "frame100.jpg"]
    paths = [tmp_path / name for name in ("2", "a", "10", "1b", "")]
    assert sorted(paths, key=natural_order)[1:] == [tmp_path / name for name in ("1b", "2", "10", "a")]


def test_the_photos_of_a_folder_are_one_video(tmp_path, capsys):
    folder, out = tmp_path / "in" / "shots", tmp_path / "out"
    for number in range(1, 13):
        jpeg(folder / f"{number}.jpg", plain(100 + number, 100, 100))
    film(folder / "other.mp4", 3, pixels=lambda i: plain())
    assert run([tmp_path / "in"], out, sequence=True, sequence_fps=10, annotate=True, plot=True) == 0
    table = pl.read_parquet(out / "faces.parquet").filter(pl.col("file") == str(folder))
    assert table["frame"].to_list() == list(range(12))
    assert np.allclose(table["time"], np.arange(12) / 10)
    assert table["valence"].is_sorted()
    assert table["face"].unique().to_list() == [1]
    assert sorted(path.name for path in out.rglob("*.*") if path.suffix in (".mp4", ".png")) == [
        "other.mp4", "other.png", "shots.mp4", "shots.png"
    ]  # fmt: skip
    assert "2 inputs, 15 images" in capsys.readouterr().out
    (item,) = (i for i in collect([str(folder / "*.jpg")], sequence=True).inputs if isinstance(i.source, tuple))
    assert [f.number for f in open_input(item, every=5)[1]] == [0, 5, 10]
    assert [f.number for f in open_input(item, fps=2, rate=10)[1]] == [0, 5, 10]


def test_photos_of_a_sequence_that_cannot_be_read_are_counted(tmp_path, capsys):
    for number in range(4):
        jpeg(tmp_path / "in" / f"{number}.jpg")
    (tmp_path / "in" / "2.jpg").write_bytes(b"\xff\xd8\xff\xe0broken")
    assert run([tmp_path / "in"], tmp_path / "out", sequence=True) == 1
    assert "2.jpg: damaged JPEG" in (error := capsys.readouterr().err)
    assert "1 of 4 photos cannot be read" in error
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["frame"].to_list() == [0, 1, 3]


def test_a_damaged_photo_is_read_with_a_note_or_refused(tmp_path, capsys):
    path = jpeg(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-2])
    assert run([path]) == 0
    assert "a.jpg: damaged (Premature end of JPEG file), read" in capsys.readouterr().out
    assert run([path], strict=True) == 1
    assert "a.jpg: damaged JPEG" in capsys.readouterr().err


def test_an_animated_picture_is_a_video(tmp_path):
    shades = [Image.fromarray(plain(100 + 5 * i, 100, 100)) for i in range(4)]
    (tmp_path / "in").mkdir()
    for ending in ("webp", "png", "gif"):
        path = tmp_path / "in" / f"a.{ending}"
        shades[0].save(path, save_all=True, append_images=shades[1:], duration=100)
    assert run([tmp_path / "in"], tmp_path / "out", annotate=True) == 0
    table = pl.read_parquet(tmp_path / "out" / "faces.parquet")
    for (_,), rows in table.group_by("file"):
        assert rows["time"].to_list() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert sorted(path.suffix for path in (tmp_path / "out" / "annotated").iterdir()) == [".mp4"] * 3


def test_an_address_is_refused_by_name():
    (failure,) = collect(["rtsp://127.0.0.1:1/live"]).failures
    assert failure == "rtsp://127.0.0.1:1/live: an address, which is not read; save the stream as a file first"


def test_options_out_of_range_are_refused(tmp_path):
    with pytest.raises(InputError, match="--sequence-fps 0"):
        run([jpeg(tmp_path / "a.jpg")], sequence=True, sequence_fps=0)
