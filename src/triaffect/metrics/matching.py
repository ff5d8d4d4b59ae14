"""The two sides of a score: predictions and labels, from tables or files, frame beside frame."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import load_index
from triaffect.data.predictions import check_predictions, frame_key, load_predictions, require_images
from triaffect.data.submission import read_submission
from triaffect.io import InputError
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS

Table = pl.DataFrame | str | os.PathLike[str]
"""A frame, or the path of a file that holds one."""


def read_predictions(given: Table) -> pl.DataFrame:
    """Predictions from a frame, a predictions file, or an ABAW submission in text."""
    if isinstance(given, pl.DataFrame):
        check_predictions(given)
        return given
    return load_predictions(given) if os.fspath(given).endswith(".parquet") else read_submission(given)


def read_index(given: Table, split: str | None) -> pl.DataFrame:
    """The index (of one split) from a frame, an index file, or an annotation file or tree."""
    if not isinstance(given, pl.DataFrame):
        return load_index(given, split)
    index = given if split is None else given.filter(pl.col("split") == split)
    if not index.height:
        raise InputError(f"the index holds no frame of split {split!r}; it has {given['split'].unique().to_list()}")
    return index


def common_tasks(held: Sequence[str], index: pl.DataFrame, asked: Sequence[str] | None = None) -> list[str]:
    """The tasks to score, in the order of TASKS: those asked for, or all that are predicted and labelled."""
    known = [t for t in TASKS if any(index[c].null_count() < index.height for c in LABEL_COLUMNS[t])]
    for task in asked or ():
        if task not in TASKS:
            raise InputError(f"no task {task!r}; there are {', '.join(TASKS)}")
        if task not in held or task not in known:
            raise InputError(f"{task} cannot be scored: the {'labels' if task in held else 'predictions'} lack it")
    tasks = [task for task in known if task in (asked or held)]
    if not tasks:
        here, there = (" and ".join(names) or "no task" for names in (held, known))
        raise InputError(f"nothing to score: the predictions hold {here}, the labels {there}; give matching files")
    return tasks


def locate(predictions: pl.DataFrame, index: pl.DataFrame) -> pl.Series:
    """Where each index row's prediction stands in `predictions`, null where it has none; one join serves all tasks.

    A side that knows the crops by a deeper folder (`batch1/`) than the other meets it by `video/00001.jpg`.
    """
    here, there = index.select("image"), predictions.select("image").with_row_index("place")
    places = _places(here, there)
    if places.null_count():
        short = [side.with_columns(frame_key()) for side in (here, there)]
        if all(a["image"].n_unique() == b["image"].n_unique() for a, b in zip((here, there), short, strict=True)):
            places = _places(*short)
    return places


def _places(here: pl.DataFrame, there: pl.DataFrame) -> pl.Series:
    """A left join on `image`; by the names' hashes, which take a fraction of the memory, where no two share one."""
    names, on, step = there["image"], pl.col("image"), 1 << 18
    hashed = there.with_columns(on.hash())
    places = here.select(on.hash()).join(hashed, on="image", how="left", maintain_order="left")["place"]
    if len(places) == len(here):
        parts = (slice(at, at + step) for at in range(0, len(here), step))
        if not any((here["image"][part] != names.gather(places[part])).any() for part in parts):
            return places
    return here.join(there, on="image", how="left", maintain_order="left")["place"]


def aligned(
    predictions: pl.DataFrame, places: pl.Series, index: pl.DataFrame, task: str
) -> tuple[list[NDArray], list[NDArray], NDArray[np.intp]]:
    """The frames that are labelled for a task, as `measures.sums` takes them.

    Args:
        predictions: A predictions frame.
        places: From `locate`.
        index: An index with the integer column `unit`.
        task: `va`, `expr` or `au`.

    Returns:
        Prediction columns, label columns (missing: NaN for va, -1 else) and `unit`, (n,) each.

    Raises:
        InputError: A labelled frame has no prediction; names the number and the first three.
    """
    labels = LABEL_COLUMNS[task]
    known = index.select(pl.any_horizontal(pl.col(labels).is_not_null())).to_series()
    places = places.filter(known)
    if places.null_count():
        rows = index.filter(known)
        try:
            require_images(rows["image"], predictions, f"predictions of {task}")
        except InputError as error:
            raise InputError(f"{error}{', or name one split' if rows['split'].n_unique() > 1 else ''}") from None
    missing = float("nan") if task == "va" else -1
    pred = [predictions[name].gather(places).to_numpy() for name in PREDICTION_COLUMNS[task]]
    target = [index[name].filter(known).fill_null(missing).to_numpy() for name in labels]
    return pred, target, index["unit"].filter(known).to_numpy().astype(np.intp, copy=False)
