"""Submissions to the ABAW challenges: text files, written and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from triaffect.data.abaw_text import HEADERS, ROW_HEADERS, detect_kind, read_list, read_rows, read_videos, sample_header
from triaffect.data.index import load_index
from triaffect.data.predictions import (
    Thresholds,
    check_predictions,
    frame_key,
    load_predictions,
    one_hot,
    require_images,
    tasks_of,
    threshold_row,
)
from triaffect.io import InputError, StrPath, atomic_path, inside
from triaffect.labels import ACTION_UNITS, LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS, VA

TRACKS: dict[str, tuple[str, ...]] = {
    "mtl": TASKS,
    **{task: (task,) for task in TASKS},
    **{f"{task}-videos": (task,) for task in TASKS},
}
"""Track -> its tasks. `mtl`: ABAW3, 4, 7, 11; `va`, `expr`, `au`: ABAW5, 6, 8; `va-videos` and so on, one file per
video: the uni-task challenges of ABAW1 to 3."""


def write_submission(
    predictions: pl.DataFrame | StrPath,
    release_list: StrPath,
    out: StrPath,
    track: str,
    thresholds: Thresholds = None,
    split: str | None = None,
) -> dict[str, int]:
    """Write predictions as the organisers of a challenge expect them.

    Args:
        predictions: A predictions table or file; rows marked `filled` are allowed, and counted.
        release_list: The organisers' list of images, their sample submission, whose header and order of columns are
            kept, or an index. For `...-videos` also their list of videos, each
            with its number of lines after a comma if known (the video's frames + 1); otherwise a video has lines up to
            its last predicted frame.
        out: The text file to write; for `...-videos`, the folder.
        track: One of `TRACKS`.
        thresholds: An AU is written as 1 if its probability reaches this: one number, twelve, or by name; 0.5 by
            default.
        split: The rows of an index to write; by default its test split, or all rows if it has none.

    Returns:
        Counts: `rows`, `videos`, and `filled` of those rows.

    Raises:
        InputError: Unknown track; a sample submission of another track; a task or an image is not predicted (with the
            number and the first names); a split that the list lacks.
    """
    if track not in TRACKS:
        raise InputError(f"no track {track!r}; there are {', '.join(TRACKS)}")
    name = "predictions" if isinstance(predictions, pl.DataFrame) else os.fspath(predictions)
    table = predictions if isinstance(predictions, pl.DataFrame) else load_predictions(predictions)
    check_predictions(table, name)
    missing = [task for task in TRACKS[track] if task not in tasks_of(table)]
    if missing:
        raise InputError(f"{name}: holds no {' and no '.join(missing)}, which track {track} needs; fuse or predict it")
    by_video = track.endswith("-videos")
    rows = _rows_to_write(Path(release_list), table, by_video, split)
    table = table.with_columns(_label_columns(TRACKS[track], thresholds))
    listed = rows["image"]
    if not listed.is_in(table["image"].implode()).all():
        # The list says video/00001.jpg; the crops may have been unpacked deeper.
        table = table.with_columns(frame_key()).unique("image", keep="first", maintain_order=True)
        rows = rows.with_columns(frame_key())
    require_images(rows["image"], table, f"{out} is not written: {name}")
    rows = rows.join(table, on="image", how="left", maintain_order="left").with_columns(image=listed)
    names = tuple(column for task in TRACKS[track] for column in LABEL_COLUMNS[task])
    if not by_video:
        is_text = Path(release_list).suffix.lower() == ".txt"
        header, names = (is_text and sample_header(release_list, track)) or (ROW_HEADERS[track], names)
    columns = [f"written_{name}" for name in names]
    with atomic_path(out) as tmp_path:
        if by_video:
            tmp_path.mkdir()
            for (video,), part in rows.group_by("video", maintain_order=True):
                _write(part.select(columns), HEADERS[TRACKS[track][0]], inside(tmp_path, f"{video}.txt"))
        else:
            _write(rows.select("image", *columns), header, tmp_path)
    filled = int(rows["filled"].sum()) if "filled" in rows.columns else 0
    return {"rows": rows.height, "videos": rows["video"].n_unique(), "filled": filled}


def read_submission(path: StrPath) -> pl.DataFrame:
    """Read a submission as predictions.

    Args:
        path: A text file of any track; or the folder, or one file, of the per-video form.

    Returns:
        A predictions table: an expression becomes probability 1 of its class, an AU 0. or 1. Of a repeated image, the
        first row is returned.

    Raises:
        InputError: As `abaw_text.read_rows`, or a row that predicts nothing (-5, -1), with its image.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such submission; name a text file, or the folder of per-video files")
    labels = load_index(path) if path.is_dir() or detect_kind(path) in TASKS else read_rows(path)
    columns = [pl.col("image")]
    for task in TASKS:
        names = [name for name in LABEL_COLUMNS[task] if name in labels.columns]
        if not names or all(labels[name].null_count() == labels.height for name in names):
            continue
        missing = labels.filter(pl.any_horizontal(pl.col(names).is_null()))
        if missing.height:
            first = missing["image"][0]
            raise InputError(f"{path}: {missing.height:,} rows predict no {task}, first {first!r}; predict every row")
        columns += one_hot() if task == "expr" else [pl.col(name).cast(pl.Float64) for name in names]
    predictions = labels.select(columns).unique("image", keep="first", maintain_order=True)
    check_predictions(predictions, path)
    return predictions


def _rows_to_write(release_list: Path, predictions: pl.DataFrame, by_video: bool, split: str | None) -> pl.DataFrame:
    """Return `image` and `video` of every row to write, in order."""
    if not release_list.exists():
        raise InputError(f"{release_list}: no such release list; name the organisers' list, or an index")
    kind = detect_kind(release_list) if release_list.suffix.lower() == ".txt" else None
    if split and kind in ("videos", "list"):
        raise InputError(f"{release_list}: a list without splits; leave out --split, or name an index")
    if kind == "videos":
        if not by_video:
            raise InputError(f"{release_list}: names videos only; give the list that names every image, or an index")
        frames = read_videos(release_list)
    else:
        is_list = kind == "list" or (kind == "rows" and split is None)
        rows = read_list(release_list) if is_list else load_index(release_list, split)
        if split is None and "split" in rows.columns and (rows["split"] == "test").any():
            rows = rows.filter(split="test")
        if not by_video:
            return rows.select("image", "video")
        frames = dict(rows.group_by("video", maintain_order=True).agg(pl.col("frame").max()).iter_rows())
    keys = predictions.select(frame_key().str.extract_groups(r"^(.*)/([0-9]{1,9})\.").alias("key")).unnest("key")
    last = dict(keys.group_by("1").agg(pl.col("2").cast(pl.Int64).max()).iter_rows())
    images = [(f"{v}/{i:05d}.jpg", v) for v, n in frames.items() for i in range(1, (n or last.get(v) or 1) + 1)]
    return pl.DataFrame(images, {"image": pl.String, "video": pl.String}, orient="row")


def _label_columns(tasks: Sequence[str], thresholds: Thresholds) -> list[pl.Expr]:
    """Return `written_<label column>` for each task: six decimals, the most likely class, 0 or 1."""
    columns = []
    if "va" in tasks:
        columns += [pl.col(name).cast(pl.Float64).round(6).alias(f"written_{name}") for name in VA]
    if "expr" in tasks:
        columns.append(pl.concat_list(PREDICTION_COLUMNS["expr"]).list.arg_max().alias("written_expression"))
    if "au" in tasks:
        columns += [
            (pl.col(name).cast(pl.Float64) >= threshold).cast(pl.Int8).alias(f"written_{name}")
            for name, threshold in zip(ACTION_UNITS, threshold_row(thresholds).tolist(), strict=True)
        ]
    return columns


def _write(rows: pl.DataFrame, header: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header + "\n")
        rows.write_csv(file, include_header=False, quote_style="never", float_precision=6)
