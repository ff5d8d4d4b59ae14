"""The predictions file: what every model writes, and what fusion, scores and submissions read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.cells import read_cells
from triaffect.data.index import write_parquet
from triaffect.data.table import image_of_faces, recognise, to_codes
from triaffect.io import InputError, Notices, StrPath
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS, VA
from triaffect.text import plural

AFFIXES = "pred|predicted|prediction|predictions|prob|probability|score"
"""What other programs write before or after the name of a predicted column."""

Thresholds = float | Sequence[float] | Mapping[str, float] | None


def tasks_of(predictions: pl.DataFrame, where: str = "") -> tuple[str, ...]:
    """Return the tasks of a predictions table, in the order of `labels.TASKS`.

    Args:
        predictions: The table.
        where: What the message begins with, such as the file.

    Raises:
        InputError: A task has only some of its columns.
    """
    tasks = []
    for task, columns in PREDICTION_COLUMNS.items():
        lacking = [name for name in columns if name not in predictions.columns]
        if not lacking:
            tasks.append(task)
        elif len(lacking) < len(columns):
            advice = "give all its columns or none"
            if task == "expr":
                advice += ", or 0 for a class that the model does not have"
            raise InputError(f"{where}predictions of {task} lack {', '.join(lacking)}; {advice}")
    return tuple(tasks)


def check_predictions(predictions: pl.DataFrame, name: StrPath = "predictions") -> None:
    """Refuse an invalid predictions table.

    Args:
        predictions: `image`, the columns of one task or more, optionally `filled`.
        name: What to call it in the message.

    Raises:
        InputError: A column is missing; an image is repeated; a value is missing or out of range (valence and arousal
            -1 to 1, probabilities 0 to 1).
    """
    if "image" not in predictions.columns:
        raise InputError(f"{name}: has no column 'image', the key of predictions")
    tasks = tasks_of(predictions, f"{name}: ")
    if not tasks:
        raise InputError(f"{name}: holds no task; it needs {', '.join(VA)} or another task's columns")
    # Hashes need a fraction of the memory of names; if two are equal, the names decide.
    images = predictions["image"]
    may_repeat = images.hash().n_unique() < len(images)
    if may_repeat and (repeated := images.filter(images.is_duplicated())).len():
        message = f"predicts {repeated[0]!r} more than once, with different values; keep one row per image"
        raise InputError(f"{name}: {message}")
    for column in (column for task in tasks for column in PREDICTION_COLUMNS[task]):
        low = -1 if column in VA else 0
        if not predictions.schema[column].is_numeric():
            raise InputError(f"{name}: {column} holds no numbers; write numbers from {low} to 1")
        is_wrong = (~pl.col(column).is_between(low, 1)).fill_null(True)
        wrong = predictions.select("image", column).filter(is_wrong)
        if wrong.height:
            image, value = wrong.row(0)
            values, advice = predictions[column], f"write numbers from {low} to 1"
            if value is None:
                advice += ", in every row"
            elif (
                column in ACTION_UNITS
                and predictions.select(pl.max_horizontal(ACTION_UNITS).is_between(0, 5)).to_series().all()
            ):
                advice += "; if these are intensities, write 1 where the unit is active and 0 elsewhere"
            elif low == 0 and values.is_between(0, 100).all():
                advice = "these look like percentages: divide them by 100"
            elif values.is_between(-100, 100).all() and wrong.height > 1 and low < 0:
                advice += "; if these are percentages, divide them by 100"
            elif low == 0 and values.is_finite().all():
                advice += "; if these are raw outputs (logits), apply softmax (expressions) or the sigmoid (AUs) first"
            raise InputError(f"{name}: {column} of {image!r} is {value} ({plural(wrong.height, 'such row')}); {advice}")


def save_predictions(predictions: pl.DataFrame, path: StrPath, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a predictions file.

    Args:
        predictions: As for `check_predictions`.
        path: The file to write, `.parquet`.
        provenance: Plain data on where the predictions come from (model, index, split, command).

    Raises:
        InputError: As `check_predictions`.
    """
    check_predictions(predictions, path)
    write_parquet(predictions, path, provenance or {})


def load_predictions(path: StrPath) -> pl.DataFrame:
    """Load a predictions file; what is assumed of a foreign one is a warning.

    Args:
        path: Parquet, from `save_predictions` or any other program; CSV, Excel or JSON; the tables of `analyze`, of
            which the largest face of each image counts. An expression without probabilities gets probability 1.

    Returns:
        `image`, the columns of its tasks (Float32 or Float64), and `filled` (Boolean) if the file has it.

    Raises:
        InputError: It cannot be read; or as `check_predictions`.
    """
    cells = read_cells(path, Notices())
    image_of_faces(cells)
    columns = list(chain(*PREDICTION_COLUMNS.values()))
    recognise(cells, ("image", "video", "frame", "expression", *columns), AFFIXES)
    if "expression" in cells.table.columns and not set(PREDICTION_COLUMNS["expr"]) & set(cells.table.columns):
        to_codes(cells)
        cells.table = cells.table.with_columns(one_hot())
    for name in columns:
        if cells.table.schema.get(name) == pl.String:
            cells.to_number(name)
    table = cells.table
    table = table.with_columns(pl.col("image").cast(pl.String).str.replace_all("\\", "/", literal=True))
    # Rounding by another program; and rows that are repeated as they are.
    numeric = [name for name in columns if name in table.columns and table.schema[name].is_numeric()]
    for name in numeric:
        low = -1 if name in VA else 0
        if not table[name].is_between(low, 1).all() and table[name].is_between(low - 1e-4, 1 + 1e-4).all():
            table = table.with_columns(pl.col(name).clip(low, 1))
    if table["image"].hash().n_unique() < table.height:
        table = table.unique(["image", *numeric], keep="first", maintain_order=True)
    check_predictions(table, path)
    for line in cells.notices.lines():
        warnings.warn(line, stacklevel=2)
    return table


def one_hot() -> list[pl.Expr]:
    """Return probability 1 for the class in the column `expression`, 0 for the others."""
    codes = enumerate(PREDICTION_COLUMNS["expr"])
    return [(pl.col("expression") == code).cast(pl.Float64).alias(name) for code, name in codes]


def threshold_row(thresholds: Thresholds) -> NDArray[np.float64]:
    """Return the (12,) thresholds of AU probabilities.

    Args:
        thresholds: One number, twelve, or by name (0.5 for the others); None is 0.5.

    Raises:
        InputError: Neither one nor twelve finite numbers, or an unknown name.
    """
    if isinstance(thresholds, Mapping):
        unknown = [name for name in thresholds if name not in ACTION_UNITS]
        if unknown:
            raise InputError(f"thresholds: no AU {unknown[0]!r}; there are {', '.join(ACTION_UNITS)}")
        thresholds = [thresholds.get(name, 0.5) for name in ACTION_UNITS]
    row = np.asarray(0.5 if thresholds is None else thresholds, float)
    if row.shape not in ((), (1,), (12,)) or not np.isfinite(row).all():
        raise InputError(f"thresholds: give one finite number or twelve, not {row.size}")
    return np.broadcast_to(row, 12)


def frame_key() -> pl.Expr:
    """Return the expression for `video/00001.jpg` of `image`: the same wherever a folder of crops was unpacked."""
    return pl.col("image").str.extract(r"([^/]*/?[^/]*)$")


def fill_gaps(
    predictions: pl.DataFrame, index: pl.DataFrame, method: Literal["nearest", "linear"] = "nearest"
) -> pl.DataFrame:
    """Give every image of an index a prediction, also where there is no crop.

    Before the first and after the last predicted frame of a video, its nearest predicted frame is repeated. A video
    without any predicted frame gets the mean prediction. The column `filled` marks what was not predicted.

    Args:
        predictions: `image` and prediction columns.
        index: `image`, `video` and `frame`, each image once.
        method: `nearest` repeats the nearest predicted frame of the video; `linear` interpolates valence and arousal
            between the two neighbours, by frame number, and repeats the nearest frame for expressions and AUs, of
            which a mixture may be a class that neither neighbour shows.

    Raises:
        InputError: Nothing was predicted.
    """
    if predictions.is_empty():
        raise InputError("no image could be predicted, so there is nothing to fill from; check --images")
    columns = [c for c in predictions.columns if c != "image"]
    order = index.select("image", "video", "frame").with_row_index("order")
    predicted = order.join(predictions, on="image", how="inner").sort("frame")
    nearest = order.sort("frame").join_asof(
        predicted.drop("image", "order"), on="frame", by="video", strategy="nearest", check_sortedness=False
    )
    if method == "linear" and (va := [c for c in columns if c in VA]):
        frames = order.select("image", "video", "frame").join(predictions.select("image", *va), on="image", how="left")
        between = [pl.col(c).interpolate_by("frame").over("video").alias(f"{c}_between") for c in va]
        nearest = nearest.join(frames.select("image", *between), on="image", how="left")
        nearest = nearest.with_columns(pl.coalesce(f"{c}_between", c).cast(nearest.schema[c]).alias(c) for c in va)
    is_filled = ~pl.col("image").is_in(predictions["image"].implode())
    return (
        nearest.sort("order")
        .with_columns(pl.col(c).fill_null(predictions[c].mean()) for c in columns)
        .select("image", *columns, is_filled.alias("filled"))
    )


def require_images(images: pl.Series, predictions: pl.DataFrame, name: StrPath) -> None:
    """Refuse predictions that lack some of these images.

    Args:
        images: Names, repeated or not.
        predictions: A predictions table.
        name: What to call it in the message.

    Raises:
        InputError: With the number and the first three of the missing images.
    """
    unique = images.unique(maintain_order=True)
    missing = unique.filter(~unique.is_in(predictions["image"].implode()))
    if len(missing):
        raise InputError(
            f"{name}: {len(missing):,} of {len(unique):,} images have no prediction: {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}; predict them all (predict --fill nearest, where there is no crop)"
            + (f"; predictions are named like {predictions['image'][0]!r}" if len(missing) == len(unique) else "")
        )
