"""Generic tables: any data set whose rows name an image, in the columns of the index.

Missing is an empty cell (CSV), null or NaN (Parquet); -1 and -5 mean nothing here and are refused.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from triaffect.data.layout import SCHEMA
from triaffect.data.lines import StrPath
from triaffect.io import InputError
from triaffect.labels import INDEX_COLUMNS, SPLITS

OUTSIDE_ROOT = r"^[/\\]|^.{0,2}:|\\|(^|/)\.\.(/|$)"
"""Matches the name of an image that leaves its root."""

RANGES = {"valence": (-1, 1), "arousal": (-1, 1), "expression": (0, 7), "frame": (0, 2**31 - 1)}


def read_table(path: StrPath) -> pl.DataFrame:
    """Reads a CSV or Parquet table of images.

    Args:
        path: Its columns: `image` (a path relative to the image root) and any of the index's; others are kept as they
            are, for `score --by`.

    Returns:
        The index's columns, then the others. Where the table does not say: every image is a `video` of its own (right
        for stills; give frames of videos the column, which intervals and leaks rest on); `frame` is the number that is
        the image's name, or else its place in the video; `split` and `exists` are null.

    Raises:
        InputError: Naming file, line (CSV) or row (Parquet), column, value and the mend.
    """
    try:
        if Path(path).suffix.lower() == ".csv":
            table = pl.read_csv(Path(path), infer_schema=False, encoding="utf8")
        else:
            table = pl.read_parquet(Path(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
    if "image" not in table.columns:
        held = ", ".join(table.columns[:8])
        raise InputError(f"{path}: has no column 'image' (only {held}); name the images' column so")
    _refuse(path, table, "image", pl.col("image").is_null() | (pl.col("image") == ""), "write the image's path")
    table = table.with_columns(pl.col("image").cast(pl.String))
    _refuse(path, table, "image", pl.col("image").str.contains(OUTSIDE_ROOT), "use a path relative to the image root")
    for name in INDEX_COLUMNS:
        if name in table.columns and SCHEMA[name].is_numeric():
            table = _numeric(path, table, name)
    if "split" in table.columns:
        unknown = ~pl.col("split").cast(pl.String).is_in(SPLITS)
        _refuse(path, table, "split", unknown, f"write {', '.join(SPLITS)} or nothing")
    if "exists" in table.columns:
        table = table.with_columns(pl.col("exists").cast(pl.String).str.to_lowercase().is_in(["true", "1"]))
    return _complete(table)


def _complete(table: pl.DataFrame) -> pl.DataFrame:
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in table.columns]
    table = table.with_columns(absent).with_columns(
        pl.coalesce(pl.col("video").cast(pl.String), "image").alias("video")
    )
    named = pl.col("image").str.extract(r"(?:^|/)([0-9]{1,9})\.[^./]*$").cast(pl.Int32)
    place = pl.int_range(1, pl.len() + 1).over("video")
    frame = pl.coalesce(pl.col("frame").cast(pl.Int32), named, place).alias("frame")
    table = table.with_columns(frame).select(*INDEX_COLUMNS, pl.exclude(INDEX_COLUMNS))
    return table.with_columns(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def _numeric(path: StrPath, table: pl.DataFrame, name: str) -> pl.DataFrame:
    """A column as numbers, checked; NaN is missing."""
    cell = pl.col(name)
    if table.schema[name] == pl.String:
        cell = pl.when(cell.str.strip_chars() != "").then(cell.str.strip_chars())
    value = cell.cast(pl.Float64, strict=False)
    low, high = RANGES.get(name, (0, 1))
    whole = SCHEMA[name].is_integer()
    legal = value.is_between(low, high) & ((value == value.floor()) | (not whole))
    wrong = cell.is_not_null() & ~(legal | value.is_nan()).fill_null(False)
    kind = "a whole number" if whole else "a number"
    _refuse(path, table, name, wrong, f"write {kind} from {low} to {high}, and nothing where it is missing")
    return table.with_columns(pl.when(~value.is_nan()).then(value).alias(name))


def _refuse(path: StrPath, table: pl.DataFrame, name: str, wrong: pl.Expr, mend: str) -> None:
    rows = table.select(wrong.fill_null(False).arg_true()).to_series()
    if len(rows):
        line = f"{rows[0] + 2}" if Path(path).suffix.lower() == ".csv" else f"row {rows[0] + 1}"
        raise InputError(f"{path}:{line}: {name} is {table[name][rows[0]]!r} ({len(rows):,} such rows); {mend}")
