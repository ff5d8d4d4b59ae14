"""ABAW submissions in text, out and in (the table "Submission files" of the challenges' instructions)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triaffect.data.formats import read_list, read_rows, read_videos, sniff
from triaffect.data.index import load_index
from triaffect.data.lines import HEADERS, ROWS_HEADERS, StrPath
from triaffect.data.predictions import (
    Thresholds,
    check_predictions,
    frame_key,
    load_predictions,
    refuse_lacking,
    tasks_of,
    threshold_row,
)
from triaffect.io import InputError, atomic_path, inside
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS, VA

TRACKS: dict[str, tuple[str, ...]] = {
    "mtl": TASKS,
    **{task: (task,) for task in TASKS},
    **{f"{task}-videos": (task,) for task in TASKS},
}
"""Track -> its tasks. `mtl`: ABAW3, 4, 7, 11; `va`, `expr`, `au`: ABAW5, 6, 8; `va-videos` and so on, one file a video:
the uni-task challenges of ABAW1 to 3."""


def write_submission(
    predictions: pl.DataFrame | StrPath, release_list: StrPath, out: StrPath, track: str, thresholds: Thresholds = None
) -> dict[str, int]:
    """Writes what the organisers of a challenge expect.

    Args:
        predictions: A predictions table or file; rows marked `filled` are allowed, and counted.
        release_list: The organisers' list of images; or an index, whose test split (all of it, where it has none) is
            then the list. For `...-videos` also their list of videos, each with its number of lines after a comma if
            it is known (the video's frames + 1); without one, a video has lines up to its last predicted frame.
        out: The text file to write; for `...-videos`, the folder.
        track: One of `TRACKS`.
        thresholds: An AU is written as 1 where its probability reaches this: one number, twelve, or by name; 0.5 where
            left out.

    Returns:
        Counts: `rows`, `videos`, and `filled` of those rows.

    Raises:
        InputError: Unknown track; a task or an image is not predicted (with the number and the first names).
    """
    if track not in TRACKS:
        raise InputError(f"no track {track!r}; there are {', '.join(TRACKS)}")
    name = "predictions" if isinstance(predictions, pl.DataFrame) else os.fspath(predictions)
    table = predictions if isinstance(predictions, pl.DataFrame) else load_predictions(predictions)
    check_predictions(table, name)
    lacking = [task for task in TRACKS[track] if task not in tasks_of(table)]
    if lacking:
        raise InputError(f"{name}: holds no {' and no '.join(lacking)}, which track {track} needs; fuse or predict it")
    by_video = track.endswith("-videos")
    rows = _expected(Path(release_list), table, by_video)
    table = table.with_columns(_written(TRACKS[track], thresholds))
    if not rows["image"].is_in(table["image"].implode()).all():
        # The list says video/00001.jpg; the crops may have been unpacked deeper.
        table = table.with_columns(frame_key()).unique("image", keep="first", maintain_order=True)
        rows = rows.with_columns(frame_key().alias("image"), listed="image")
    refuse_lacking(rows["image"], table, f"{out} is not written: {name}")
    rows = rows.join(table, on="image", how="left", maintain_order="left")
    columns = [f"written_{column}" for task in TRACKS[track] for column in LABEL_COLUMNS[task]]
    with atomic_path(out) as tmp_path:
        if by_video:
            tmp_path.mkdir()
            for (video,), part in rows.group_by("video", maintain_order=True):
                _write(part.select(columns), HEADERS[TRACKS[track][0]], inside(tmp_path, f"{video}.txt"))
        else:
            key = "listed" if "listed" in rows.columns else "image"
            _write(rows.select(key, *columns), ROWS_HEADERS[track], tmp_path)
    filled = int(rows["filled"].sum()) if "filled" in rows.columns else 0
    return {"rows": rows.height, "videos": rows["video"].n_unique(), "filled": filled}


def read_submission(path: StrPath) -> pl.DataFrame:
    """Reads a submission as predictions.

    Args:
        path: A text file of any track; or the folder, or one file, of the per-video form.

    Returns:
        A predictions table: an expression becomes probability 1 of its class, an AU 0. or 1. Of an image that stands
        twice, the first row is kept.

    Raises:
        InputError: As `formats.read_rows`, with file and line; or a row that predicts nothing (-5, -1), with its image.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such submission; name a text file, or the folder of per-video files")
    if path.is_dir() or sniff(path) in TASKS:
        labels = load_index(path).select("image", *(c for task in TASKS for c in LABEL_COLUMNS[task]))
    else:
        labels = read_rows(path)
    columns: dict[str, Any] = {"image": labels["image"]}
    for task in TASKS:
        held = [name for name in LABEL_COLUMNS[task] if name in labels.columns]
        if not held or all(labels[name].null_count() == labels.height for name in held):
            continue
        missing = labels.filter(pl.any_horizontal(pl.col(name).is_null() for name in held))
        if missing.height:
            raise InputError(
                f"{path}: {missing.height:,} rows predict no {task}, first {missing['image'][0]!r}; predict every row"
            )
        if task == "expr":
            one_hot = np.eye(len(EXPRESSIONS))[labels["expression"].to_numpy()]
            columns |= dict(zip(PREDICTION_COLUMNS[task], one_hot.T, strict=True))
        else:
            columns |= {name: labels[name].cast(pl.Float64) for name in held}
    predictions = pl.DataFrame(columns).unique("image", keep="first", maintain_order=True)
    check_predictions(predictions, path)
    return predictions


def _expected(release_list: Path, predictions: pl.DataFrame, by_video: bool) -> pl.DataFrame:
    """`image` and `video` of every row to write, in order."""
    if not release_list.exists():
        raise InputError(f"{release_list}: no such release list; name the organisers' list, or an index")
    kind = sniff(release_list) if release_list.suffix.lower() == ".txt" else None
    if kind == "videos":
        if not by_video:
            raise InputError(f"{release_list}: names videos only; give the list that names every image, or an index")
        counts = read_videos(release_list)
    else:
        rows = read_list(release_list) if kind in ("rows", "list") else load_index(release_list)
        if "split" in rows.columns and (rows["split"] == "test").any():
            rows = rows.filter(split="test")
        if not by_video:
            return rows.select("image", "video")
        counts = dict(rows.group_by("video", maintain_order=True).agg(pl.col("frame").max()).iter_rows())
    parts = predictions.select(frame_key().str.extract_groups(r"^(.*)/([0-9]{1,9})\.").alias("part")).unnest("part")
    last = dict(parts.group_by("1").agg(pl.col("2").cast(pl.Int64).max()).iter_rows())
    parts = pl.DataFrame(
        {"video": list(counts), "frame": [range(1, (n or last.get(v) or 1) + 1) for v, n in counts.items()]},
        schema={"video": pl.String, "frame": pl.List(pl.Int64)},
    ).explode("frame")
    number = pl.col("frame").cast(pl.String).str.zfill(5)
    return parts.select(pl.concat_str("video", pl.lit("/"), number, pl.lit(".jpg")).alias("image"), "video")


def _written(tasks: Sequence[str], thresholds: Thresholds) -> list[pl.Expr]:
    """What a submission says of each label column: six decimals, the likeliest class, 0 or 1."""
    written = []
    if "va" in tasks:
        written += [pl.col(name).cast(pl.Float64).round(6).alias(f"written_{name}") for name in VA]
    if "expr" in tasks:
        likeliest = pl.concat_list(PREDICTION_COLUMNS["expr"]).list.arg_max()
        written.append(likeliest.alias("written_expression"))
    if "au" in tasks:
        pairs = zip(ACTION_UNITS, threshold_row(thresholds).tolist(), strict=True)
        written += [
            (pl.col(name).cast(pl.Float64) >= cut).cast(pl.Int8).alias(f"written_{name}") for name, cut in pairs
        ]
    return written


def _write(rows: pl.DataFrame, header: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header + "\n")
        rows.write_csv(file, include_header=False, quote_style="never", float_precision=6)
