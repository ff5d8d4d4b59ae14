"""Readers of the ABAW text files: one file in, clean labels out; -5 and -1 end here.

A file is first read by the column, which takes milliseconds and accepts only what is plainly regular. Whatever it
declines is read again by the line, which survives every legal irregularity and names the line of an illegal one.
Both give the same values (tests/annotations/test_formats.py holds them together).

Blank lines are no frames: they are skipped, so data line i is the i-th line that holds something.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.lines import (
    ALL_LABELS,
    Line,
    Shape,
    StrPath,
    names_image,
    numbers,
    read_bytes,
    read_lines,
    refuse,
    shape_of,
    split_line,
)
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, LABEL_COLUMNS, VA

Notices = dict[str, list[str]]
"""What a reader met and mended: message -> the files it was met in."""

Kind = Literal["va", "expr", "au", "rows", "list", "videos"]
"""A task's per-video file; rows that begin with an image; a list of images; a list of videos."""

# No root, no drive, no backslash: with the test for "..", an image cannot leave its root.
_IMAGE = r"^(?:[^/\\:]+/)*([^/\\:]+)/([0-9]{1,9})\.(?:jpg|jpeg|png)$"
_CLIMBS = r"(^|/)\.\.?(/|$)"


def read_video(path: StrPath, task: str, notices: Notices | None = None) -> NDArray[Any]:
    """Reads one video's file of one task.

    Args:
        path: A text file with or without its header; headers of all editions are known (7 or 8 expressions, any AUs).
        task: `va`, `expr` or `au`.
        notices: Gets what was mended.

    Returns:
        (frames, 2) float64, NaN missing, for va; (frames, 1) int8, -1 missing, for expr; (frames, 12) int8, -1 missing,
        for au. Row i is frame i + 1. AUs that the edition lacks are missing.

    Raises:
        InputError: Naming file and line: not UTF-8, an unknown header, a wrong number of fields, a value out of range.
    """
    data, notices = read_bytes(path), {} if notices is None else notices
    shape, body = _first_line(data, task)
    values: NDArray[Any] | None = None
    if shape and task == "va":
        values = _fast_floats(body)
    elif shape:
        values = _fast_codes(body, len(shape.columns), shape.classes - 1 if task == "expr" else 1)
    if shape is None or values is None:
        shape, lines = _careful(data, task, path, notices)
        values = numbers(lines, shape, path)
    return _arrange(values, shape, task, path, notices)


def read_rows(path: StrPath, notices: Notices | None = None) -> pl.DataFrame:
    """Reads a file whose rows begin with an image: s-Aff-Wild2, ABAW3's MTL file, or a submission.

    Args:
        path: A text file with or without its header; with the header `...,aus`, rows have 16 fields.
        notices: Gets what was mended.

    Returns:
        `image`, `video`, `frame` and the label columns that the file has, in the order of the file, duplicates kept;
        null is missing.

    Raises:
        InputError: Naming file and line, as `read_video`; or an image that is no `video/00001.jpg`.
    """
    data, notices = read_bytes(path), {} if notices is None else notices
    shape, body = _first_line(data, "rows")
    table = _fast_rows(body, shape) if shape else None
    if shape is None or table is None:
        shape, lines = _careful(data, "rows", path, notices)
        values = numbers([(number, fields[1:]) for number, fields in lines], shape, path)
        images = pl.Series("image", [fields[0] for _, fields in lines], pl.String)
        table = pl.DataFrame({"image": images, **dict(zip(shape.columns, values.T, strict=True))}).fill_nan(None)
        table = _keyed(table, path, [number for number, _ in lines])
    return table.cast({name: pl.Int8 for name in shape.columns if name not in VA})


def read_list(path: StrPath) -> pl.DataFrame:
    """Reads the images of a test release list: the first field of every line, in order, duplicates kept.

    Args:
        path: A text file with or without a header; what stands after the image (a sample submission's values) is
            ignored, but must be the same number of values in every row.

    Returns:
        `image`, `video`, `frame`.

    Raises:
        InputError: Naming file and line of what is no `video/00001.jpg`, or of a row unlike the first.
    """
    lines = read_lines(read_bytes(path), path)
    lines = lines[bool(lines) and names_image(lines[0][1][0]) :]
    table = pl.DataFrame({"image": [fields[0] for _, fields in lines]}, schema={"image": pl.String})
    table = _keyed(table, path, [number for number, _ in lines])
    for number, fields in lines:
        given, first = (sum(map(bool, row[1:])) for row in (fields, lines[0][1]))
        if given != first:
            raise InputError(
                f"{path}:{number}: has {given} values after the image, the first row {first}; mend the line"
            )
    return table


def read_videos(path: StrPath) -> dict[str, int | None]:
    """Reads a release list that names videos, as the uni-task challenges have them.

    Args:
        path: A text file with one video a line, and after a comma, if known, its number of frames.

    Returns:
        Video -> number of frames, or None where the list does not tell.

    Raises:
        InputError: Naming file and line of what is no plain name of a video.
    """
    videos: dict[str, int | None] = {}
    for number, (name, *rest) in read_lines(read_bytes(path), path):
        if re.search(r"[/\\:]", name) or name.startswith(".") or len(rest) > 1 or not all(r.isdecimal() for r in rest):
            raise InputError(
                f"{path}:{number}: {','.join([name, *rest])!r} is no video; write its stem, or stem,frames"
            )
        videos[name] = int(rest[0]) if rest else None
    return videos


def sniff(path: StrPath) -> Kind | None:
    """Tells what a text file holds from its first lines; None where it is none of ours."""
    with open(path, "rb") as file:
        head = file.read(65536)
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\r", "\n")
    lines = [fields for fields in map(split_line, text.split("\n")) if fields != [""]][:2]
    if not lines:
        return None
    row = lines[-1] if names_image(lines[0][0]) else lines[0]
    if re.search(r"\.(jpg|jpeg|png)$", row[0], re.IGNORECASE) or names_image(row[0]):
        return "rows" if any(row[1:]) and not names_image(row[0]) else "list"
    for task in ("va", "expr", "au"):
        if shape_of(lines[0], task):
            return task
    plain = len(row) <= 2 and re.fullmatch(r"\S+", row[0]) and all(field.isdecimal() for field in row[1:])
    return "videos" if plain else None


def no_labels(frames: int, task: str) -> NDArray[Any]:
    """A task's labels of a video without any."""
    if task == "va":
        return np.full((frames, len(VA)), np.nan)
    return np.full((frames, len(LABEL_COLUMNS[task])), -1, np.int8)


def _first_line(data: bytes, task: str) -> tuple[Shape | None, bytes]:
    """The shape that the first line tells, and the lines that hold data."""
    first, _, body = data.partition(b"\n")
    shape = shape_of(split_line(first.decode("utf-8", "replace")), task)
    body = (body if shape and shape.header else data).rstrip() + b"\n"
    return shape, body.replace(b",\n", b"\n") if b",\n" in body else body


def _careful(data: bytes, task: str, path: StrPath, notices: Notices) -> tuple[Shape, list[Line]]:
    """The same, from the first line that holds something."""
    lines = read_lines(data, path)
    if not lines:
        notices.setdefault("empty file", []).append(os.fspath(path))
        return Shape(LABEL_COLUMNS.get(task, ALL_LABELS), False), []
    shape = shape_of(lines[0][1], task) or refuse(path, lines[0], task)
    if data.rstrip(b"\n").count(b"\n") >= len(lines):
        notices.setdefault("blank lines skipped", []).append(os.fspath(path))
    return shape, lines[shape.header :]


def _fast_codes(body: bytes, width: int, last: int) -> NDArray[np.int8] | None:
    """(lines, width) of single digits and -1, or None where a line is anything else."""
    if b"\xff" in body:
        return None
    body = body.replace(b"-1", b"\xff")  # now every value is one byte, and every line as long as the others
    if len(body) % (2 * width):
        return None
    grid = np.frombuffer(body, np.uint8).reshape(-1, 2 * width)
    if (grid[:, 1:-1:2] != ord(",")).any() or (grid[:, -1] != ord("\n")).any():
        return None
    codes = grid[:, ::2]
    missing = codes == 0xFF
    values = codes - np.uint8(ord("0"))
    if ((values > last) & ~missing).any():
        return None
    values[missing] = 0xFF
    return values.view(np.int8)


def _fast_floats(body: bytes) -> NDArray[np.float64] | None:
    """(lines, 2), NaN missing, or None where a line is anything but two plain decimals in range."""
    if body.translate(None, b"0123456789.-,\n"):
        return None
    table = _csv(body, dict.fromkeys(VA, pl.Float64))
    if table is None:
        return None
    values = table.to_numpy(writable=True)
    missing = values == -5
    if not (missing | (np.abs(values) <= 1)).all():
        return None
    values[missing] = np.nan
    return values


def _fast_rows(body: bytes, shape: Shape) -> pl.DataFrame | None:
    if b" " in body or b"\t" in body:
        return None
    types = {name: pl.Float64 if name in VA else pl.Int8 for name in shape.columns}
    table = _csv(body.rstrip() + b"\n", {"image": pl.String, **types})
    if table is None:
        return None
    lasts = dict.fromkeys(ACTION_UNITS, 1) | {"expression": shape.classes - 1}
    legal = [
        pl.col(n).is_between(-1, 1) | (pl.col(n) == -5) if n in VA else pl.col(n).is_between(-1, lasts[n])
        for n in types
    ]
    if not table.select(pl.all_horizontal(legal).all()).item():
        return None
    missing = [pl.when(pl.col(n) != (-5 if n in VA else -1)).then(pl.col(n)) for n in types]
    try:
        return _keyed(table.with_columns(missing), "", [])
    except InputError:
        return None


def _csv(body: bytes, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame | None:
    """Rows without a header, or None where polars and the separators do not agree on every field."""
    try:
        table = pl.read_csv(body, has_header=False, schema=schema, quote_char=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    rows = body.count(b"\n")
    whole = table.height == rows and body.count(b",") == rows * (len(schema) - 1)
    return table if whole and not any(table.null_count().row(0)) else None


def _keyed(table: pl.DataFrame, path: StrPath, numbers: list[int]) -> pl.DataFrame:
    """Adds `video` and `frame` from `image`; `numbers` are the rows' lines in the file."""
    parts = pl.col("image").str.extract_groups(_IMAGE).struct
    table = table.select(
        "image",
        pl.when(~pl.col("image").str.contains(_CLIMBS)).then(parts.field("1")).alias("video"),
        parts.field("2").cast(pl.Int32).alias("frame"),
        pl.exclude("image"),
    )
    if table["video"].has_nulls():
        row = int(table["video"].is_null().arg_max() or 0)
        where = f"{path}:{numbers[row]}" if numbers else f"{path}"
        raise InputError(f"{where}: {table['image'][row]!r} is no image; write video/00001.jpg, below the image root")
    return table


def _arrange(values: NDArray[Any], shape: Shape, task: str, path: StrPath, notices: Notices) -> NDArray[Any]:
    """The file's columns as the task's."""
    wanted = LABEL_COLUMNS[task]
    for name in shape.columns:
        if name not in wanted:
            notices.setdefault(f"{name} is not one of the twelve AUs: dropped", []).append(os.fspath(path))
    if task != "va" and values.dtype != np.int8:
        values = np.where(np.isnan(values), -1, values).astype(np.int8)
    if shape.columns == wanted:
        return values
    arranged = no_labels(len(values), task)
    for place, name in enumerate(shape.columns):
        if name in wanted:
            arranged[:, wanted.index(name)] = values[:, place]
    return arranged
