"""The text files of every ABAW edition: one file in, clean labels out.

A file is first parsed column by column, which takes milliseconds and accepts only regular text. Anything else is parsed
line by line, which accepts every legal irregularity and reports the line of an illegal one. Both give the same values
(tests/data/test_abaw_text.py).

A missing label is -5 (valence, arousal) or -1 in a file; `missing_to_null` makes it null. Blank lines are not frames:
data line i is the i-th line that is not blank.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import polars as pl

from triaffect.io import InputError, Notices, StrPath
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, PREDICTION_COLUMNS, VA

ABAW1_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU12", "AU15", "AU20", "AU25")
"""The eight AUs of the first edition, for its files without a header."""

HEADERS = {"va": ",".join(VA), "expr": ",".join(EXPRESSIONS), "au": ",".join(ACTION_UNITS)}
"""First line of the per-video files."""

ROW_HEADERS = {
    "mtl": "image,valence,arousal,expression,aus",
    **{task: f"image_location,{header}" for task, header in HEADERS.items()},
}
"""First line of the files whose rows begin with an image, by track."""

ALL_LABELS = (*VA, "expression", *ACTION_UNITS)
_ROW_COLUMNS = {"mtl": ALL_LABELS, **LABEL_COLUMNS}
_COLUMNS_BY_HEADER = {ROW_HEADERS[track].partition(",")[2].lower(): names for track, names in _ROW_COLUMNS.items()}
_COLUMNS_BY_HEADER |= {",".join(names).lower(): names for names in _ROW_COLUMNS.values()}
# Without a header, the number of values decides.
_COLUMNS_BY_WIDTH = {task: {len(names): names} for task, names in LABEL_COLUMNS.items()}
_COLUMNS_BY_WIDTH["au"][len(ABAW1_UNITS)] = ABAW1_UNITS
_COLUMNS_BY_WIDTH["rows"] = {len(names): names for names in _ROW_COLUMNS.values()}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# No root, no drive, no backslash: together with the check for "..", an image cannot leave its root.
_IMAGE = r"^(?:[^/\\:]+/)*([^/\\:]+)/([0-9]{1,9})\.(?:jpg|jpeg|png)$"
_PARENT_FOLDER = r"(^|/)\.\.?(/|$)"

Kind = Literal["va", "expr", "au", "rows", "list", "videos"]
"""A task's per-video file; rows that begin with an image; a list of images; a list of videos."""

Line = tuple[int, list[str]]
"""A line's number in the file, from 1, and its fields."""


class LineFormat(NamedTuple):
    """What the first line says about the others."""

    columns: tuple[str, ...]
    """Columns of the numbers in a row, in the file's order; may contain AUs that are not among the twelve."""
    has_header: bool
    classes: int = len(EXPRESSIONS)

    def legal(self, column: str) -> tuple[int, int, int]:
        """Return the lowest and the highest value of a column, and the one that means missing."""
        last = self.classes - 1 if column == "expression" else 1
        return (-1, 1, -5) if column in VA else (0, last, -1)

    def schema(self) -> pl.Schema:
        """Return the type of every column."""
        return pl.Schema({name: pl.Float64() if name in VA else pl.Int8() for name in self.columns})


def read_video(path: StrPath, task: str, notices: Notices | None = None) -> pl.DataFrame:
    """Read the file of one video and one task.

    Args:
        path: A text file with or without its header; headers of all editions are known (7 or 8 expressions, any AUs).
        task: `va`, `expr` or `au`.
        notices: Receives what was corrected.

    Returns:
        Those of the task's label columns that the file has, as it has them (Float64 for va, Int8 otherwise); row i is
        frame i + 1.

    Raises:
        InputError: Names file and line: not UTF-8, an unknown header, a wrong number of fields, a value out of range.
    """
    notices = Notices() if notices is None else notices
    table, _ = _read(path, task, notices)
    unknown = [name for name in table.columns if name not in LABEL_COLUMNS[task]]
    for name in unknown:
        notices[f"{name} is not one of the twelve AUs: dropped"].append(os.fspath(path))
    return table.drop(unknown) if unknown else table  # an empty list costs as much as a small file


def missing_to_null(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose missing labels are null instead of -5 or -1."""
    missing = {name: -5 if name in VA else -1 for name in ALL_LABELS if name in table.columns}
    return table.with_columns(pl.when(pl.col(name) != code).then(pl.col(name)) for name, code in missing.items())


def read_rows(path: StrPath, notices: Notices | None = None) -> pl.DataFrame:
    """Read a file whose rows begin with an image: s-Aff-Wild2, the MTL file of ABAW3, or a submission.

    Args:
        path: A text file with or without its header; with the header `...,aus`, rows have 16 fields.
        notices: Receives what was corrected.

    Returns:
        `image`, `video`, `frame` and the file's label columns (null is missing), in the order of the file, duplicates
        included.

    Raises:
        InputError: As `read_video`, or an image that is not `video/00001.jpg`.
    """
    table, line_numbers = _read(path, "rows", Notices() if notices is None else notices)
    return missing_to_null(_add_keys(table, line_numbers, path))


def read_list(path: StrPath) -> pl.DataFrame:
    """Read the images of a test release list: the first field of every line, in order, duplicates included.

    Args:
        path: A text file with or without a header. Values after the image (of a sample submission) are ignored, but
            every row must have the same number of them.

    Returns:
        `image`, `video`, `frame`.

    Raises:
        InputError: Names file and line of what is not `video/00001.jpg`, or of a row unlike the first.
    """
    lines = _split_lines(_read_bytes(path), path)
    lines = lines[bool(lines) and _is_image_column(lines[0][1][0]) :]
    images = pl.DataFrame({"image": [fields[0] for _, fields in lines]}, schema={"image": pl.String})
    table = _add_keys(images, [number for number, _ in lines], path)
    for number, fields in lines:
        values, first = (sum(map(bool, row[1:])) for row in (fields, lines[0][1]))
        if values != first:
            raise _error(path, number, f"has {values} values after the image, the first row {first}; correct the line")
    return table


def sample_header(path: StrPath, track: str) -> tuple[str, tuple[str, ...]] | None:
    """Read the header of the organisers' sample submission, whose spelling and order differ between editions.

    Args:
        path: A list of images, with or without header and values.
        track: `mtl`, `va`, `expr` or `au`.

    Returns:
        The first line, and the label columns in its order; None if it names no label, or those of other tracks too.

    Raises:
        InputError: The header is of another track.
    """
    lines = _split_lines(_read_bytes(path), path)[:1]
    if not lines or not _is_image_column(lines[0][1][0]) or len(lines[0][1]) == 1:
        return None
    number, header = lines[0][0], ",".join(lines[0][1])
    columns_of = {"AUs": ACTION_UNITS, **dict.fromkeys(PREDICTION_COLUMNS["expr"], ("expression",))}
    fields = [field.lower().replace("au", "AU") for field in lines[0][1][1:]]
    columns = list(dict.fromkeys(column for field in fields for column in columns_of.get(field, (field,))))
    if not set(columns) >= set(_ROW_COLUMNS[track]):
        raise _error(path, number, f"the header {header[:60]!r} is not of track {track}; name this track's sample file")
    return (header, tuple(columns)) if len(columns) == len(_ROW_COLUMNS[track]) else None


def read_videos(path: StrPath) -> dict[str, int | None]:
    """Read a release list of videos, as the uni-task challenges have them.

    Args:
        path: A text file with one video per line and, if known, its number of frames after a comma.

    Returns:
        Video -> number of frames, or None if the list does not say.

    Raises:
        InputError: Names file and line of what is not a video's name.
    """
    videos: dict[str, int | None] = {}
    for number, (name, *rest) in _split_lines(_read_bytes(path), path):
        if re.search(r"[/\\:]", name) or name.startswith(".") or len(rest) > 1 or not all(r.isdecimal() for r in rest):
            raise _error(path, number, f"{','.join([name, *rest])!r} is no video; write its stem, or stem,frames")
        videos[name] = int(rest[0]) if rest else None
    return videos


def detect_kind(path: StrPath) -> Kind | None:
    """Return what a text file contains, by its first lines; None for anything else."""
    with open(path, "rb") as file:
        head = file.read(65536)
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\r", "\n")
    lines = [fields for fields in map(_split_line, text.split("\n")) if fields != [""]][:2]
    if not lines:
        return None
    row = lines[-1] if _is_image_column(lines[0][0]) else lines[0]
    if re.search(r"\.(jpg|jpeg|png)$", row[0], re.IGNORECASE) or _is_image_column(row[0]):
        return "rows" if any(row[1:]) and not _is_image_column(row[0]) else "list"
    for task in ("va", "expr", "au"):
        if _line_format(lines[0], task):
            return task
    is_name = len(row) <= 2 and re.fullmatch(r"\S+", row[0]) and all(field.isdecimal() for field in row[1:])
    return "videos" if is_name else None


def _error(path: StrPath, number: int, problem: str) -> InputError:
    """Return the error of a line."""
    return InputError(f"{path}:{number}: {problem}")


def _read(path: StrPath, kind: str, notices: Notices) -> tuple[pl.DataFrame, Sequence[int]]:
    """Return the file's columns (for rows, `image` first) and the line number of each row."""
    data = _read_bytes(path)
    line_format, body = _first_line(data, kind)
    if line_format:
        digits_only = kind in ("expr", "au")
        columns = _parse_digits(body, line_format) if digits_only else _parse_csv(body, line_format, kind == "rows")
        if columns is not None:
            return columns, range(1 + line_format.has_header, 1 + line_format.has_header + columns.height)

    lines = _split_lines(data, path)
    if not lines:
        notices["empty file"].append(os.fspath(path))
        line_format = LineFormat(LABEL_COLUMNS.get(kind, ALL_LABELS), False)
    else:
        line_format = _line_format(lines[0][1], kind) or _refuse_header(path, lines[0], kind)
        if data.rstrip(b"\n").count(b"\n") >= len(lines):
            notices["blank lines skipped"].append(os.fspath(path))
        lines = lines[line_format.has_header :]
    numbers = [number for number, _ in lines]
    if kind != "rows":
        return _parse_lines(lines, line_format, path), numbers
    table = _parse_lines([(number, fields[1:]) for number, fields in lines], line_format, path)
    return table.insert_column(0, pl.Series("image", [fields[0] for _, fields in lines], pl.String)), numbers


def _read_bytes(path: StrPath) -> bytes:
    """Return a file's bytes without byte-order mark, lines ended by LF."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise _error(path, 1, "is UTF-16; save the file as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def _split_line(line: str) -> list[str]:
    """Return a line's fields; a blank line has one, empty."""
    parts = [part.strip() for part in line.split(",")]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # one trailing comma is no field


def _split_lines(data: bytes, path: StrPath) -> list[Line]:
    """Return the lines that are not blank."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise _error(path, line, problem) from None
    return [(i, fields) for i, fields in enumerate(map(_split_line, text.split("\n")), 1) if fields != [""]]


def _is_image_column(field: str) -> bool:
    return field.lower() in ("image", "image_location")


def _line_format(fields: list[str], kind: str) -> LineFormat | None:
    """Return the format of a file whose first line has these fields; None if they are neither header nor numbers."""
    names = [field.lower() for field in fields]
    by_width = _COLUMNS_BY_WIDTH[kind].get(len(fields) - (kind == "rows"))
    if kind == "rows":
        has_header = _is_image_column(fields[0])
        columns = _COLUMNS_BY_HEADER.get(",".join(names[1:])) if has_header else by_width
        return LineFormat(columns, has_header) if columns else None
    if _NUMBER.fullmatch(fields[0]):
        return LineFormat(by_width, False) if by_width else None
    if kind == "va" and sorted(names) == sorted(VA):
        return LineFormat(tuple(names), True)
    if kind == "expr" and len(names) in (7, 8) and names == [name.lower() for name in EXPRESSIONS[: len(names)]]:
        return LineFormat(("expression",), True, len(names))
    units = [name.upper() for name in names]
    are_units = all(re.fullmatch("AU[0-9]+", unit) for unit in units) and len(set(units)) == len(units)
    if kind == "au" and are_units and set(units) & set(ACTION_UNITS):
        return LineFormat(tuple(units), True)
    return None


def _refuse_header(path: StrPath, line: Line, kind: str) -> NoReturn:
    number, fields = line
    widths = " or ".join(str(width + (kind == "rows")) for width in _COLUMNS_BY_WIDTH[kind])
    expected = ROW_HEADERS["mtl"] if kind == "rows" else HEADERS[kind]
    other = next((t for t in HEADERS if t != kind != "rows" and _line_format(fields, t)), None)
    advice = f"expected the header {expected}, with commas"
    if other:
        advice = f"it looks like {other}: move it to that task's folder"
    first = ",".join(fields)[:80]
    raise _error(path, number, f"{first!r} is no header of {kind} and no row of {widths} fields; {advice}")


def _first_line(data: bytes, kind: str) -> tuple[LineFormat | None, bytes]:
    """Return the format and the lines of data, without trailing commas."""
    first, _, body = data.partition(b"\n")
    line_format = _line_format(_split_line(first.decode("utf-8", "replace")), kind)
    body = (body if line_format and line_format.has_header else data).rstrip() + b"\n"
    return line_format, body.replace(b",\n", b"\n") if body.endswith(b",\n") else body


def _parse_digits(body: bytes, line_format: LineFormat) -> pl.DataFrame | None:
    """Parse single digits and -1; None if a line contains anything else."""
    width, characters = len(line_format.columns), np.frombuffer(body, np.uint8).copy()
    minus = np.flatnonzero(characters == ord("-"))
    if b"\xff" in body or (characters[minus + 1] != ord("1")).any():
        return None
    characters[minus + 1] = 0xFF
    characters = np.delete(characters, minus)  # now every value is one byte, and all lines have the same length
    if len(characters) % (2 * width):
        return None
    grid = characters.reshape(-1, 2 * width)
    if (grid[:, 1:-1:2] != ord(",")).any() or (grid[:, -1] != ord("\n")).any():
        return None
    values = np.ascontiguousarray(grid[:, ::2].T)
    is_missing = values == 0xFF
    values -= np.uint8(ord("0"))
    _, last, _ = line_format.legal(line_format.columns[0])
    if ((values > last) & ~is_missing).any():
        return None
    values[is_missing] = 0xFF
    return pl.DataFrame(dict(zip(line_format.columns, values.view(np.int8), strict=True)))


def _parse_csv(body: bytes, line_format: LineFormat, with_image: bool) -> pl.DataFrame | None:
    """Parse numbers, after an image if so; None if a line is irregular or a value illegal."""
    if b" " in body or b"\t" in body or not (with_image or not body.translate(None, b"0123456789.-,\n")):
        return None
    schema = pl.Schema(({"image": pl.String()} if with_image else {}) | dict(line_format.schema()))
    try:
        table = pl.read_csv(body, has_header=False, schema=schema, quote_char=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    # polars and the separators must agree on every field.
    rows = body.count(b"\n")
    if table.height != rows or body.count(b",") != rows * (table.width - 1) or any(table.null_count().row(0)):
        return None
    for name in line_format.columns:
        values, (low, high, missing) = table[name].to_numpy(), line_format.legal(name)
        if not ((values >= low) & (values <= high) | (values == missing)).all():
            return None
    return table


def _parse_lines(lines: list[Line], line_format: LineFormat, path: StrPath) -> pl.DataFrame:
    """Check and convert every value of the lines."""
    columns = line_format.columns
    values = np.empty((len(lines), len(columns)))
    for row, (number, fields) in enumerate(lines):
        if len(fields) != len(columns):
            expected = f"{len(columns)} are expected ({','.join(columns)})"
            raise _error(path, number, f"has {len(fields)} values where {expected}; correct or remove the line")
        for i, (text, column) in enumerate(zip(fields, columns, strict=True)):
            low, high, missing = line_format.legal(column)
            value = float(text) if _NUMBER.fullmatch(text) else float("nan")
            if value != missing and not (low <= value <= high and (column in VA or value.is_integer())):
                allowed = f"a number from {low} to {high}" if column in VA else f"{low} to {high}"
                raise _error(path, number, f"{column} is {text!r}; write {allowed}, or {missing} where missing")
            values[row, i] = value
    return pl.DataFrame(values, list(columns), orient="row").cast(line_format.schema())


def _add_keys(table: pl.DataFrame, line_numbers: Sequence[int], path: StrPath) -> pl.DataFrame:
    """Add `video` and `frame`, from `image`."""
    parts = pl.col("image").str.extract_groups(_IMAGE).struct
    table = table.select(
        "image",
        pl.when(~pl.col("image").str.contains(_PARENT_FOLDER)).then(parts.field("1")).alias("video"),
        parts.field("2").cast(pl.Int32).alias("frame"),
        pl.exclude("image"),
    )
    if table["video"].has_nulls():
        row = int(table["video"].is_null().arg_max() or 0)
        problem = f"{table['image'][row]!r} is no image; write video/00001.jpg, below the image root"
        raise _error(path, line_numbers[row], problem)
    return table
