"""ABAW text files line by line: what a file's first line says of its shape, and every value checked.

Here is what is legal. The quick readers of formats.py accept a part of it and leave the rest to `numbers`.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, VA

StrPath = str | os.PathLike[str]

ABAW1_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU12", "AU15", "AU20", "AU25")
"""The first edition's eight AUs, for its files without a header."""

HEADERS = {"va": ",".join(VA), "expr": ",".join(EXPRESSIONS), "au": ",".join(ACTION_UNITS)}
"""First line of the per-video files."""

ALL_LABELS = (*VA, "expression", *ACTION_UNITS)
_BARE: dict[str, dict[int, tuple[str, ...]]] = {
    "va": {2: VA},
    "expr": {1: ("expression",)},
    "au": {12: ACTION_UNITS, 8: ABAW1_UNITS},
    "rows": {15: ALL_LABELS, 2: VA, 1: ("expression",), 12: ACTION_UNITS},
}
_ROW_HEADERS = {
    names.lower(): columns
    for names, columns in {
        "valence,arousal,expression,aus": ALL_LABELS,
        ",".join(ALL_LABELS): ALL_LABELS,
        HEADERS["va"]: VA,
        HEADERS["expr"]: ("expression",),
        "expression": ("expression",),
        HEADERS["au"]: ACTION_UNITS,
    }.items()
}
ROWS_HEADERS = {
    "mtl": "image,valence,arousal,expression,aus",
    "va": "image_location," + HEADERS["va"],
    "expr": "image_location," + HEADERS["expr"],
    "au": "image_location," + HEADERS["au"],
}
"""First line of the files whose rows begin with an image, by track."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

Line = tuple[int, list[str]]
"""A line's number in the file, from 1, and its fields."""


class Shape(NamedTuple):
    """What the first line tells of the others."""

    columns: tuple[str, ...]
    """Of the numbers in a row, in the file's order; may hold AUs that are not ours."""
    header: bool
    classes: int = len(EXPRESSIONS)


def read_bytes(path: StrPath) -> bytes:
    """A file without a byte-order mark, its lines ended by LF."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InputError(f"{path}:1: is UTF-16; save the file as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def split_line(line: str) -> list[str]:
    """A line's fields; a blank line has one, empty."""
    parts = [part.strip() for part in line.split(",")]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # one trailing comma is no field


def names_image(field: str) -> bool:
    """Whether a first field is the header's."""
    return field.lower() in ("image", "image_location")


def read_lines(data: bytes, path: StrPath) -> list[Line]:
    """The lines that hold something."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    return [(i, fields) for i, fields in enumerate(map(split_line, text.split("\n")), 1) if fields != [""]]


def shape_of(fields: list[str], task: str) -> Shape | None:
    """The shape of a file whose first line has these fields, or None where they are neither header nor numbers."""
    names = [field.lower() for field in fields]
    if task == "rows":
        columns = _ROW_HEADERS.get(",".join(names[1:])) if names_image(fields[0]) else None
        bare = None if names_image(fields[0]) else _BARE[task].get(len(fields) - 1)
        return Shape(columns, True) if columns else Shape(bare, False) if bare else None
    if _NUMBER.fullmatch(fields[0]):
        bare = _BARE[task].get(len(fields))
        return Shape(bare, False) if bare else None
    if task == "va" and sorted(names) == sorted(VA):
        return Shape(tuple(names), True)
    if task == "expr" and len(names) in (7, 8) and names == [name.lower() for name in EXPRESSIONS[: len(names)]]:
        return Shape(("expression",), True, len(names))
    units = [name.upper() for name in names]
    known = all(re.fullmatch("AU[0-9]+", unit) for unit in units) and len(set(units)) == len(units)
    if task == "au" and known and set(units) & set(ACTION_UNITS):
        return Shape(tuple(units), True)
    return None


def refuse(path: StrPath, line: Line, task: str) -> NoReturn:
    """Raises the InputError for a first line that `shape_of` does not know."""
    number, fields = line
    widths = " or ".join(str(width + (task == "rows")) for width in _BARE[task])
    expected = ROWS_HEADERS["mtl"] if task == "rows" else HEADERS[task]
    other = next((t for t in HEADERS if t != task != "rows" and shape_of(fields, t)), None)
    mend = f"it looks like {other}: move it to that task's folder" if other else f"expected the header {expected}"
    raise InputError(
        f"{path}:{number}: {','.join(fields)[:80]!r} is no header of {task} and no row of {widths} fields; {mend}"
    )


def _value(text: str, column: str, classes: int) -> float:
    """One annotation as a label: NaN where missing. Raises ValueError with what is legal."""
    value = float(text) if _NUMBER.fullmatch(text) else float("nan")
    if column in VA:
        if value == -5:
            return float("nan")
        if not -1 <= value <= 1:
            raise ValueError("a number from -1 to 1, or -5 where missing")
        return value
    last = classes - 1 if column == "expression" else 1
    if value == -1:
        return float("nan")
    if not (0 <= value <= last and value.is_integer()):
        raise ValueError(f"0 to {last}, or -1 where missing")
    return value


def numbers(lines: list[Line], shape: Shape, path: StrPath) -> NDArray[np.float64]:
    """Checks every value: (lines, columns), NaN missing.

    Raises:
        InputError: Naming file and line of a wrong number of fields or an illegal value.
    """
    values = np.empty((len(lines), len(shape.columns)))
    for row, (number, fields) in enumerate(lines):
        if len(fields) != len(shape.columns):
            raise InputError(
                f"{path}:{number}: has {len(fields)} values where {len(shape.columns)} are expected"
                f" ({','.join(shape.columns)}); mend or remove the line"
            )
        for place, (text, column) in enumerate(zip(fields, shape.columns, strict=True)):
            try:
                values[row, place] = _value(text, column, shape.classes)
            except ValueError as legal:
                raise InputError(f"{path}:{number}: {column} is {text!r}; write {legal}") from None
    return values
