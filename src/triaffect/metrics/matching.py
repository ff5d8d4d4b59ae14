"""Predictions and labels side by side: read both, match them frame by frame, and sum up each video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import is_table, keep_classes, load_index
from triaffect.data.predictions import check_predictions, frame_key, load_predictions, require_images
from triaffect.data.submission import read_submission
from triaffect.io import InputError
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import Floats, number_sources

Table = pl.DataFrame | str | os.PathLike[str]
"""A table, or the path of a file that holds one."""

MAX_GROUPS = 1000


def read_predictions(source: Table) -> pl.DataFrame:
    """Return predictions from a table, a predictions file, or an ABAW submission in text."""
    if isinstance(source, pl.DataFrame):
        check_predictions(source)
        return source
    return load_predictions(source) if is_table(Path(source)) else read_submission(source)


def read_index(source: Table, split: str | None, classes: int = 8) -> pl.DataFrame:
    """Return the index (of one split) from a table, an index file, or an annotation file or tree.

    With seven classes, the label Other is missing.
    """
    if classes not in measures.CLASS_SETS:
        raise InputError(f"classes is {classes}; it is 8, or 7 without Other")
    if not isinstance(source, pl.DataFrame):
        index = load_index(source, split)
    else:
        index = source if split is None else source.filter(pl.col("split") == split)
        if not index.height:
            names = source["split"].unique().to_list()
            raise InputError(f"the index holds no frame of split {split!r}; it has {names}")
    return keep_classes(index, classes)


def common_tasks(predicted: Sequence[str], index: pl.DataFrame, only: Sequence[str] | None = None) -> list[str]:
    """Return the tasks to score, in the order of TASKS.

    Args:
        predicted: Tasks of the predictions.
        index: Labels.
        only: Tasks to keep; all that are predicted and labelled by default.

    Raises:
        InputError: A task of `only` is unknown, not predicted or not labelled; or no task is left.
    """
    labelled = [t for t in TASKS if any(index[c].null_count() < index.height for c in LABEL_COLUMNS[t])]
    for task in only or ():
        if task not in TASKS:
            raise InputError(f"no task {task!r}; there are {', '.join(TASKS)}")
        if task not in predicted or task not in labelled:
            side = "labels" if task in predicted else "predictions"
            raise InputError(f"{task} cannot be scored: the {side} lack it")
    tasks = [task for task in labelled if task in (only or predicted)]
    if not tasks:
        here, there = (" and ".join(names) or "no task" for names in (predicted, labelled))
        raise InputError(f"nothing to score: the predictions hold {here}, the labels {there}; give matching files")
    return tasks


def locate(predictions: pl.DataFrame, index: pl.DataFrame) -> pl.Series:
    """Return the row of each index row's prediction, null if it has none; one join serves all tasks.

    Names that differ in their folders (`batch1/` before the video) or their ending are matched by `video/00001`, also
    where they differ in case or zeros or are written as `video_1`, or by the file alone if one side has no folders;
    only as long as this makes no two names of a side equal.
    """
    here, there = index.select("image"), predictions.select("image").with_row_index("place")
    places = _join(here, there)
    if not places.null_count():
        return places
    stem = pl.col("image").str.replace(r"\.[A-Za-z0-9]{2,5}$", "")
    short_stem = stem.str.extract(r"([^/]*/?[^/]*)$")
    plain = short_stem.str.to_lowercase().str.replace("/", "_", literal=True)
    keys = [frame_key(), stem, short_stem, plain.str.replace("_0+([0-9]+)$", "_${1}")]
    if any(not side["image"].str.contains("/", literal=True).any() for side in (here, there)):
        keys.append(stem.str.extract(r"([^/]*)$"))
    for key in keys:
        short = [side.with_columns(key.alias("image")) for side in (here, there)]
        if all(a["image"].n_unique() == b["image"].n_unique() for a, b in zip((here, there), short, strict=True)):
            matched = _join(*short)
            places = matched if matched.null_count() < places.null_count() else places
    return places


def _join(here: pl.DataFrame, there: pl.DataFrame) -> pl.Series:
    """Left join on `image`: by hashes, which take a fraction of the memory, unless two names share one."""
    names, image, step = there["image"], pl.col("image"), 1 << 18
    hashed = there.with_columns(image.hash())
    places = here.select(image.hash()).join(hashed, on="image", how="left", maintain_order="left")["place"]
    if len(places) == len(here):
        parts = (slice(at, at + step) for at in range(0, len(here), step))
        if not any((here["image"][part] != names.gather(places[part])).any() for part in parts):
            return places
    return here.join(there, on="image", how="left", maintain_order="left")["place"]


def aligned(
    predictions: pl.DataFrame, places: pl.Series, index: pl.DataFrame, task: str, classes: int = 8
) -> tuple[list[NDArray], list[NDArray], NDArray[np.intp]]:
    """Return the frames that are labelled for a task, as `measures.sums` takes them.

    Args:
        predictions: A predictions table.
        places: From `locate`.
        index: An index with the integer column `unit`.
        task: `va`, `expr` or `au`.
        classes: Number of declared expressions.

    Returns:
        Prediction columns, label columns (missing: NaN for va, -1 otherwise) and `unit`, (n,) each.

    Raises:
        InputError: Labelled frames have no prediction; with their number and the first three.
    """
    labels = LABEL_COLUMNS[task]
    is_labelled = index.select(pl.any_horizontal(pl.col(labels).is_not_null())).to_series()
    places = places.filter(is_labelled)
    if places.null_count():
        rows = index.filter(is_labelled)
        try:
            require_images(rows["image"], predictions, f"predictions of {task}")
        except InputError as error:
            raise InputError(f"{error}{', or name one split' if rows['split'].n_unique() > 1 else ''}") from None
    missing = float("nan") if task == "va" else -1
    names = PREDICTION_COLUMNS[task][: classes if task == "expr" else None]
    pred = [predictions[name].gather(places).to_numpy() for name in names]
    target = [index[name].filter(is_labelled).fill_null(missing).to_numpy() for name in labels]
    return pred, target, index["unit"].filter(is_labelled).to_numpy().astype(np.intp, copy=False)


@dataclass
class VideoSums:
    """Sums of each video, or with `by` of each video within a group, from which every score is computed.

    Attributes:
        sums: Task -> (rows, columns, ...), see `measures.sums`.
        frames: Task -> (rows,) labelled frames.
        rows: Columns `video` and, with `by`, `group`.
        split: Names of the splits.
    """

    sums: dict[str, Floats]
    frames: dict[str, NDArray[np.int64]]
    rows: pl.DataFrame
    split: str

    def __post_init__(self) -> None:
        self.units, self.sources = number_sources(self.rows["video"])

    def take(self, rows: NDArray[np.integer]) -> VideoSums:
        """Return some rows, with the tasks that are labelled there."""
        sums = {task: value[rows] for task, value in self.sums.items() if self.frames[task][rows].any()}
        return VideoSums(sums, {task: self.frames[task][rows] for task in sums}, self.rows[rows], self.split)

    def total(self) -> dict[str, Floats]:
        """Return the sums over all frames: task -> (columns, ...)."""
        return {task: value.sum(0) for task, value in self.sums.items()}

    def by_source(self) -> dict[str, Floats]:
        """Return the sums of each source video: task -> (sources, columns, ...)."""
        sums = {task: np.zeros((self.sources, *value.shape[1:])) for task, value in self.sums.items()}
        for task, value in self.sums.items():
            np.add.at(sums[task], self.units.to_numpy(), value)
        return sums


def video_sums(
    predictions: pl.DataFrame,
    index: pl.DataFrame,
    tasks: Sequence[str],
    thresholds: Floats,
    by: str | None = None,
    classes: int = 8,
) -> VideoSums:
    """Sum up each video's frames for the measures of some tasks.

    Args:
        predictions: A predictions table.
        index: Labels.
        tasks: From `common_tasks`.
        thresholds: (12,) of AU probabilities.
        by: An index column whose values are groups.
        classes: Number of declared expressions.

    Raises:
        InputError: A labelled frame has no prediction, or `by` is no column or has too many values.
    """
    if by is not None and by not in index.columns:
        raise InputError(f"no column {by!r} in the index; it has {', '.join(index.columns)}")
    labels = [name for task in tasks for name in LABEL_COLUMNS[task]]
    index = index.select(*dict.fromkeys(["image", "video", "split", *labels, *([by] if by else [])]))
    is_labelled = index.select(pl.any_horizontal(pl.col(labels).is_not_null())).to_series()
    index = index if is_labelled.all() else index.filter(is_labelled)
    keys = [pl.col("video").fill_null("(missing)")]
    if by is not None:
        if (count := index[by].n_unique()) > MAX_GROUPS:
            raise InputError(f"{by}: {count} different values are too many groups; put them into a few first")
        keys.append(pl.col(by).cast(pl.String).fill_null("(missing)").alias("group"))
    names = index.select(keys)
    rows = names.unique().sort(names.columns)
    numbered = rows.with_row_index("unit").with_columns(pl.col("unit").cast(pl.Int64))
    index = index.with_columns(names.join(numbered, on=names.columns, how="left", maintain_order="left")["unit"])
    places, sums, frames = locate(predictions, index), {}, {}
    for task in tasks:
        pred, target, row = aligned(predictions, places, index, task, classes)
        sums[task] = measures.sums(task, pred, target, row, rows.height, thresholds)
        frames[task] = np.bincount(row, minlength=rows.height)
        del pred, target, row  # before the next task's take as much memory again
    return VideoSums(sums, frames, rows, "+".join(index["split"].unique().sort().fill_null("-")))
