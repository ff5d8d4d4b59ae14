"""Generic tables: any data set whose rows name an image, in the columns of the index.

Missing is an empty cell (CSV), null or NaN (Parquet); -1 and -5 have no meaning here and are refused.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from triaffect.data.layout import SCHEMA
from triaffect.io import InputError, StrPath
from triaffect.labels import INDEX_COLUMNS, SPLITS

OUTSIDE_ROOT = r"^[/\\]|^.{0,2}:|\\|(^|/)\.\.(/|$)"
"""Matches the name of an image that leaves its root."""

RANGES = {"valence": (-1, 1), "arousal": (-1, 1), "expression": (0, 7), "frame": (0, 2**31 - 1)}


def read_table(path: StrPath) -> pl.DataFrame:
    """Read a CSV or Parquet table of images.

    Args:
        path: A table with the column `image` (a path relative to the image root) and any of the index's columns.
            Others are returned unchanged, for `score --by`.

    Returns:
        The index's columns, then the others. By default every image is a separate `video` (right for stills; frames of
        videos need the column, since intervals and leaks are by video), `frame` is the number in the image's name or
        else its position in the video, and `split` and `exists` are null.

    Raises:
        InputError: Names file, line (CSV) or row (Parquet), column, value and how to fix it.
    """
    try:
        if Path(path).suffix.lower() == ".csv":
            table = pl.read_csv(Path(path), infer_schema=False, encoding="utf8")
        else:
            table = pl.read_parquet(Path(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
    image = pl.col("image").cast(pl.String)
    if "image" not in table.columns:
        columns = ", ".join(table.columns[:8])
        raise InputError(f"{path}: has no column 'image' (only {columns}); give the column of the images this name")
    _refuse(path, table, "image", image.is_null() | (image == ""), "write the image's path")
    _refuse(path, table, "image", image.str.contains(OUTSIDE_ROOT), "use a path relative to the image root")
    for name in INDEX_COLUMNS:
        if name in table.columns and SCHEMA[name].is_numeric():
            table = _to_numbers(path, table, name)
    if "split" in table.columns:
        is_unknown = ~pl.col("split").cast(pl.String).is_in(SPLITS)
        _refuse(path, table, "split", is_unknown, f"write {', '.join(SPLITS)} or nothing")
    if "exists" in table.columns:
        table = table.with_columns(pl.col("exists").cast(pl.String).str.to_lowercase().is_in(["true", "1"]))

    absent = [pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in table.columns]
    table = table.with_columns(image, *absent).with_columns(pl.coalesce(pl.col("video").cast(pl.String), "image"))
    number = pl.col("image").str.extract(r"(?:^|/)([0-9]{1,9})\.[^./]*$").cast(pl.Int32)
    position = pl.int_range(1, pl.len() + 1).over("video")
    table = table.with_columns(frame=pl.coalesce(pl.col("frame").cast(pl.Int32), number, position))
    return table.select(*(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()), pl.exclude(INDEX_COLUMNS))


def _to_numbers(path: StrPath, table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Convert a column to numbers and check it; NaN is missing."""
    cell = pl.col(name)
    if table.schema[name] == pl.String:
        cell = pl.when(cell.str.strip_chars() != "").then(cell.str.strip_chars())
    value = cell.cast(pl.Float64, strict=False)
    low, high = RANGES.get(name, (0, 1))
    is_integer = SCHEMA[name].is_integer()
    is_legal = value.is_between(low, high) & ((value == value.floor()) | (not is_integer))
    is_wrong = cell.is_not_null() & ~(is_legal | value.is_nan()).fill_null(False)
    kind = "a whole number" if is_integer else "a number"
    _refuse(path, table, name, is_wrong, f"write {kind} from {low} to {high}, and nothing where it is missing")
    return table.with_columns(pl.when(~value.is_nan()).then(value).alias(name))


def _refuse(path: StrPath, table: pl.DataFrame, name: str, is_wrong: pl.Expr, advice: str) -> None:
    rows = table.select(is_wrong.fill_null(False).arg_true()).to_series()
    if len(rows):
        line = f"{rows[0] + 2}" if Path(path).suffix.lower() == ".csv" else f"row {rows[0] + 1}"
        raise InputError(f"{path}:{line}: {name} is {table[name][rows[0]]!r} ({len(rows):,} such rows); {advice}")
