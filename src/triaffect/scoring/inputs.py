"""The two sides of a score: predictions and labels, from tables or files, frame beside frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.annotations.index import load_index
from triaffect.annotations.predictions import align, check_predictions, load_predictions
from triaffect.annotations.submission import read_submission
from triaffect.files import InputError
from triaffect.labels import ACTION_UNITS, LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS

Table = pl.DataFrame | str | os.PathLike[str]
"""A frame, or the path of a file that holds one."""

Thresholds = float | Sequence[float] | Mapping[str, float] | None
"""Of AU probabilities: one number, twelve, by name (0.5 for the rest), or 0.5."""


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


def threshold_row(given: Thresholds) -> NDArray[np.float64]:
    """(12,) thresholds of AU probabilities."""
    if isinstance(given, Mapping):
        if unknown := set(given) - set(ACTION_UNITS):
            raise InputError(f"thresholds: no AU {sorted(unknown)[0]!r}; there are {', '.join(ACTION_UNITS)}")
        given = [given.get(name, 0.5) for name in ACTION_UNITS]
    cuts = np.asarray(0.5 if given is None else given, float)
    if cuts.shape not in ((), (1,), (12,)) or not np.isfinite(cuts).all():
        raise InputError(f"thresholds: give one finite number or twelve, not {cuts.size}")
    return np.broadcast_to(cuts, 12)


def aligned(
    predictions: pl.DataFrame, index: pl.DataFrame, task: str
) -> tuple[list[NDArray], list[NDArray], NDArray[np.intp]]:
    """The frames that are labelled for a task, as `measures.sums` takes them.

    Args:
        predictions: A predictions frame.
        index: An index with the integer column `unit`.
        task: `va`, `expr` or `au`.

    Returns:
        Prediction columns, label columns (missing: NaN for va, -1 else) and `unit`, (n,) each.

    Raises:
        InputError: A labelled frame has no prediction.
    """
    labels = LABEL_COLUMNS[task]
    frame = align(predictions, index.select("image", "unit", *labels), task)
    missing = float("nan") if task == "va" else -1
    pred = [frame[f"predicted_{name}"].to_numpy() for name in PREDICTION_COLUMNS[task]]
    target = [frame[name].fill_null(missing).to_numpy() for name in labels]
    return pred, target, frame["unit"].to_numpy().astype(np.intp)
