"""The verbs index, stats, leaks and submit, driven as a person does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from raw_layout import MTL, ZEROS
from triaffect.cli.main import main
from triaffect.data.index import load_index, provenance
from triaffect.data.predictions import save_predictions

Write = Callable[..., Path]


@pytest.fixture
def tree(video_file: Write, crops: Write) -> tuple[str, str]:
    """Annotations of two videos, and their crops."""
    video_file("1_left", "va", ["0.5,0.25", "0,0"])
    video_file("1_left", "au", ["1,0,0,0,1,0,0,1"], header="AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25")
    root = video_file("1_right", "va", ["0.5,0.25"], "Validation_Set")
    return str(root), str(crops("1_left", [1]))


def test_index_and_stats_and_leaks(tree: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, images = tree
    out = str(tmp_path / "index.parquet")
    assert main(["index", root, "--images", images, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "AU20 is not one of the twelve AUs: dropped: " in printed
    assert "tasks differ in length: 1_left" in printed
    assert "train and val share 1 source videos" in printed
    assert f"{out}: 3 rows, format per-video, images {images}" in printed
    assert provenance(out)["images"] == images
    assert load_index(out)["exists"].to_list() == [True, False, False]

    assert main(["stats", out]) == 0
    printed = capsys.readouterr().out
    assert "valence-arousal" in printed
    assert "warning: train and val share 1 source videos, so scores on val leak: 1_left / 1_right" in printed
    assert main(["stats", out, "--json", "--split", "train"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["train"]["frames"] == 2
    assert result["leaks"] == []

    assert main(["leaks", out, out, "--split_a", "train", "--split_b", "val"]) == 1
    assert "1: 1_left | 1_right\n1 source videos" in capsys.readouterr().out


def test_leaks_of_clean_files(text_file: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = [text_file(f"{v}_train.txt", MTL, f"{v}/00001.jpg,0,0,0,{ZEROS}") for v in "ab"]
    assert main(["leaks", *map(str, files)]) == 0
    assert capsys.readouterr().out == "0 source videos are in both\n"


def test_an_error_is_one_line_and_leaves_the_old_index(
    tree: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], video_file: Write
) -> None:
    out = tmp_path / "index.parquet"
    out.write_text("old")
    video_file("1_left", "expr", ["1", "9"])
    assert main(["index", tree[0], "--images", tree[1], "--out", str(out)]) == 2
    caught = capsys.readouterr()
    assert caught.err.count("\n") == 1
    assert "1_left.txt:3: expression is '9'; write 0 to 7, or -1 where missing" in caught.err
    assert caught.out == ""
    assert out.read_text() == "old"
    assert not list(tmp_path.glob("*partial*"))


def test_a_wrong_image_folder_is_pointed_out(
    tree: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong").mkdir()
    assert main(["index", tree[0], "--images", str(tmp_path / "wrong"), "--out", str(tmp_path / "i.parquet")]) == 0
    assert "wrong holds no crop of these videos" in capsys.readouterr().out


def test_submit(text_file: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pl.DataFrame({"image": ["v/00001.jpg"], "valence": [0.5], "arousal": [0.0], "filled": [True]})
    save_predictions(table, tmp_path / "p.parquet")
    release, out = text_file("list.txt", "v/00001.jpg"), tmp_path / "out.txt"
    words = ["submit", str(tmp_path / "p.parquet"), str(release), "--out", str(out)]
    assert main([*words, "--track", "va"]) == 0
    assert capsys.readouterr().out == f"{out}: 1 row of 1 video, 1 filled\n"
    assert out.read_text() == "image_location,valence,arousal\nv/00001.jpg,0.500000,0.000000\n"
    assert main(words) == 2
    assert "holds no expr and no au, which track mtl needs" in capsys.readouterr().err


def test_submit_of_one_split(text_file: Write, tmp_path: Path) -> None:
    table = pl.DataFrame({"image": ["v/00001.jpg"], "valence": [0.5], "arousal": [0.0]})
    save_predictions(table, tmp_path / "p.parquet")
    index = text_file("index.csv", "image,split", "v/00001.jpg,val", "w/00001.jpg,train")
    words = ["submit", str(tmp_path / "p.parquet"), str(index), "--track", "va", "--out", str(tmp_path / "out.txt")]
    assert main(words) == 2
    assert main([*words, "--split", "val"]) == 0
    assert (tmp_path / "out.txt").read_text().splitlines()[1:] == ["v/00001.jpg,0.500000,0.000000"]


def test_show_draws_anew_and_prints_what_can_be_compared_with_the_files(
    frames: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, images = map(str, frames)
    packed, out = str(tmp_path / "crops.safetensors"), str(tmp_path / "sheet.png")
    assert main(["pack", index, "--images", images, "--out", packed]) == 0
    capsys.readouterr()
    drawn = set()
    for source in (images, images, packed):
        assert main(["show", index, "--images", source, "--n", "5", "--out", out]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        drawn.add(tuple(lines))
        assert last.startswith(f"{out}: drawn with --seed ")
    assert len(drawn) == 3
    rows = load_index(index)
    for line in lines:
        row = rows.row(int(line.split(": row ")[1].split(",")[0]), named=True)
        assert line.startswith(f"{packed}/{row['image']}: ")
        assert f"video {row['video']}, frame {row['frame']}, split {row['split']}, V " in line
    seed = last.split("--seed ")[1]
    assert main(["show", index, "--images", images, "--n", "5", "--seed", seed, "--out", out]) == 0
    assert [line.split(": row ")[1] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        line.split(": row ")[1] for line in lines
    ]


def test_show_what_the_network_gets(frames: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    index, images = map(str, frames)
    pages = []
    for options in ([], ["--augmented", "default"], ["--augmented", "base"]):
        out = tmp_path / f"{len(pages)}.png"
        words = ["show", index, "--images", images, "--n", "3", "--seed", "1", "--out", str(out), *options]
        assert main(words) == 0
        pages.append(out.read_bytes())
    assert len(set(pages)) == 3


def test_subset_keeps_the_image_root(
    frames: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out = str(frames[0]), str(tmp_path / "part.parquet")
    assert main(["subset", index, "--split", "val", "--fraction", "0.5", "--stride", "2", "--out", out]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 6 rows of ")
    assert load_index(out)["split"].unique().to_list() == ["val"]
    assert provenance(out)["part_of"] == 24
