"""Tables as people save them, to named columns of text or numbers: CSV of any dialect, Excel, JSON, Parquet, Arrow."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from triaffect.io import InputError, Notices, StrPath
from triaffect.text import plural

EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_BINARY = (".parquet", ".feather", ".arrow", *EXCEL_SUFFIXES)
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", *_BINARY)

MISSING_WORDS = (
    "", "na", "n/a", "n.a.", "nan", "nat", "<na>", "none", "null", "(null)", "nil", "\\n", "missing", "undefined",
    "unknown", "-", "--", "\u2013", "\u2014", "?", ".",
    "#n/a", "#nv", "#value!", "#div/0!", "#ref!", "#null!", "#name?", "#num!",
)  # fmt: skip
"""What people and programs write where a value is missing, in any case."""

MISSING_NUMBERS = (-2.0, -5.0, -9.0, -99.0, -999.0, -9999.0, 999.0, 9999.0)
"""The same as numbers, which no label has; -1 may be a valence."""

_AFFECTNET = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
_NO_HEADER = r'"?[^,]+\.(jpe?g|png|bmp|tiff?)"?(,[0-9]+){4},[^,]*,[0-9]+(,[0-9.-]+){2}'
"""A line of AffectNet, one of whose two tables has no header in some copies."""
_MAX_BYTES = 1 << 32  # of a packed table, unpacked
_MAGIC = {b"PAR1": ".parquet", b"PK\3\4": ".xlsx", b"\xd0\xcf\x11\xe0": ".xls", b"ARRO": ".arrow"}
"""First bytes of kinds that are not text, whatever their name."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""First bytes of a text -> its encoding; the first mark that fits counts."""
_WITHOUT_MARK = {
    b"\1\1\1\0": "utf-32-be", b"\0\1\1\1": "utf-32-le", b"\1\0\1\0": "utf-16-be", b"\0\1\0\1": "utf-16-le",
}  # fmt: skip
"""Which of the first four bytes are zero -> the encoding of a text without its mark."""


@dataclass
class Cells:
    """A table as it is in a file.

    Attributes:
        path: The file, for messages.
        table: Its columns; those of text files are all text, without spaces at their ends. Empty rows are left out.
        notices: Receives what is assumed of it.
        lines: The line of each row, for messages; None for files without lines.
        names: Column -> its name in the file, where that is another one.
    """

    path: str
    table: pl.DataFrame
    notices: Notices
    lines: pl.Series | None = None
    names: dict[str, str] = field(default_factory=dict)

    def note(self, message: str, detail: str = "") -> None:
        """Add a notice about this file."""
        self.notices[message].append(f"{self.path}: {detail}" if detail else self.path)

    def has(self, condition: pl.Expr) -> bool:
        """Whether any row fulfils a condition."""
        return bool(self.table.select(condition.any()).item())

    def refuse(self, column: str, is_wrong: pl.Expr, advice: str) -> None:
        """Raise an InputError with line, column and value of the first wrong row, if there is one."""
        rows = self.table.select(is_wrong.fill_null(False).arg_true()).to_series()
        if len(rows):
            line = f"row {rows[0] + 1}" if self.lines is None else self.lines[rows[0]]
            value = self.table[column][rows[0]]
            name = self.names.get(column, column)
            raise InputError(f"{self.path}:{line}: {name} is {value!r} ({plural(len(rows), 'such row')}); {advice}")

    def numbers(self, column: str, words: Mapping[str, str] | None = None) -> pl.Expr:
        """A column as Float64: words for missing are null, a decimal comma is a point, 5 % is 0.05, NaN is null.

        What is neither is NaN, for `refuse`.

        Args:
            column: Its name.
            words: Lower-case word -> the number that it stands for; true and false by default.
        """
        cell = pl.col(column)
        if self.table.schema[column] != pl.String:
            number = cell.cast(pl.Float64, strict=False)
            return pl.when(~number.is_nan()).then(number)
        text = cell.str.to_lowercase().str.replace("\u2212", "-", literal=True)
        text = text.replace(words or {"true": "1", "false": "0"})
        is_missing = text.is_in(MISSING_WORDS) | text.is_null()
        text = text.str.replace(r"^([+-]?[0-9]*),([0-9]+)( ?%)?$", "$1.$2$3")
        number = text.str.strip_chars_end(" %").cast(pl.Float64, strict=False).fill_null(float("nan"))
        number = pl.when(text.str.ends_with("%")).then(number / 100).otherwise(number)
        return pl.when(~is_missing).then(number)

    def to_number(self, column: str) -> None:
        """Convert a column to Float64, null where it is missing.

        Raises:
            InputError: A cell is neither a number nor a word for missing.
        """
        value = self.numbers(column)
        self.refuse(column, value.is_nan(), "write a number, and nothing where it is missing")
        self.table = self.table.with_columns(value.alias(column))


def read_cells(path: StrPath, notices: Notices) -> Cells:
    """Read a table of any kind.

    Args:
        path: A file with one of `TABLE_SUFFIXES`; any other is read as text.
        notices: Receives what was assumed.

    Raises:
        InputError: It cannot be read as a table; names the line where there is one.
    """
    path = os.fspath(path)
    suffix = table_suffix(Path(path))
    try:
        data = _unpack(Path(path))
        kind = _MAGIC.get(data[:4]) or ("" if suffix in _BINARY else suffix)
        if kind == ".parquet":
            return Cells(path, _flat(pl.read_parquet(data)), notices)
        if kind == ".arrow":
            return Cells(path, _flat(pl.read_ipc(data)), notices)
        if kind == ".json":
            table = pl.read_json(data)
            if all(isinstance(dtype, pl.Struct) for dtype in table.dtypes):  # pandas writes column -> row -> value
                table = pl.DataFrame({name: table[name].struct.unnest().row(0) for name in table.columns})
            return Cells(path, _flat(table), notices)
        if kind in (".jsonl", ".ndjson"):
            return _with_lines(path, _flat(pl.read_ndjson(data)), notices, 1)
        if kind in EXCEL_SUFFIXES:
            return _read_excel(path, data, notices)
        return _read_text(path, data, notices)
    except ModuleNotFoundError:
        raise InputError(f"{path}: Excel needs pip install 'triaffect[excel]'; or save it as CSV UTF-8") from None
    except InputError:
        raise
    except Exception as error:  # each reader raises its own errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a table ({reason}); save it as CSV UTF-8") from None


def table_suffix(path: Path) -> str:
    """The ending of a table's name in small letters, without `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _unpack(path: Path) -> bytes:
    """The content of a file, unpacked if it is packed by gzip."""
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path}: is empty; save the table again")
    if data.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(data)) as file:
            data = file.read(_MAX_BYTES)
        if len(data) == _MAX_BYTES:
            raise InputError(f"{path}: more than 4 GB when unpacked; save it as Parquet")
    return data


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Categories and bytes become text; so do lists and records, which no column of ours can be."""
    for name, dtype in table.schema.items():
        if dtype.is_nested():
            table = table.with_columns(pl.lit("a list or record in one cell").alias(name))
        elif dtype in (pl.Categorical, pl.Enum, pl.Binary):
            table = table.with_columns(pl.col(name).cast(pl.String))
    return table


def _read_excel(path: str, data: bytes, notices: Notices) -> Cells:
    """The first sheet that holds a table, without the lines above its header."""

    def read(sheet: str, **options: Any) -> pl.DataFrame:
        return pl.read_excel(io.BytesIO(data), sheet_name=sheet, engine="calamine", infer_schema_length=None,
                             raise_if_empty=False, drop_empty_rows=False, **options)  # fmt: skip

    import fastexcel  # of an extra

    logging.getLogger("fastexcel").setLevel(logging.ERROR)  # columns of words and numbers are text for us

    names = fastexcel.read_excel(data).sheet_names
    sheets = {name: read(name, has_header=False) for name in names}
    full = [name for name, table in sheets.items() if table.width > 1 and table.height > 1]
    if not full:
        raise InputError(f"{path}: no sheet holds a table; save it as CSV UTF-8")
    if len(full) > 1:
        notices["the first of several sheets is read"].append(f"{path}: {full[0]!r} of {', '.join(map(repr, full))}")
    rows = sheets[full[0]].iter_rows()
    above = next((i for i, row in enumerate(rows) if sum(cell is not None for cell in row) > 1), 0)
    if above:
        notices["lines above the header are left out"].append(f"{path}: {above}")
    table = read(full[0], read_options={"header_row": above})
    header = ["" if cell is None else str(cell) for cell in sheets[full[0]].row(above)]
    # Equal names, which the reader has numbered, are read as they are.
    has_equal = len(header) == table.width and len(set(header)) < len(header)
    return _with_lines(path, _with_names(table, header if has_equal else table.columns), notices, above + 2)


def _with_names(table: pl.DataFrame, header: list[str]) -> pl.DataFrame:
    """Name the columns as in the header, without spaces at the ends; names that are then equal are numbered."""
    names: list[str] = []
    for name in header:
        short = name.strip(" \t\r\n\ufeff\xa0")
        names.append(f"{short}_duplicated_{len(names)}" if short in names else short)
    table.columns = names
    return table


def _read_text(path: str, data: bytes, notices: Notices) -> Cells:
    text = decode_text(path, data, notices)
    head = text.split("\n", 20)[:20]
    separator, above = "", 0
    if match := re.fullmatch('"?sep ?= ?(.)"?[;,]*', head[0], re.IGNORECASE):
        separator, above = match[1], 1
    # Titles and comments have one cell.
    first = next((i for i, line in enumerate(head) if i >= above and len(re.findall(r"[^,;\t|]+", line)) > 1), above)
    if any(line.strip(",;\t| ") for line in head[above:first]):
        notices["lines above the header are left out"].append(f"{path}: {first - above}")
    text, head = text.split("\n", first)[-1], head[first:]
    if re.fullmatch(_NO_HEADER, head[0], re.IGNORECASE):
        notices["no header: the columns are taken as AffectNet's"].append(path)
        text, head, first = f"{_AFFECTNET}\n{text}", [_AFFECTNET, *head], first - 1
    unquoted = re.sub('"[^"]*"', "", head[0])
    separator = separator or max(",;\t|", key=unquoted.count)
    words = len(head[0].split())
    if separator not in unquoted and words > 1 and all(len(line.split()) in (0, words) for line in head):
        text, separator = re.sub("[ \t]+", "\t", text), "\t"
        notices["columns are separated by spaces"].append(path)
    elif separator != "," and path.lower().endswith(".csv"):
        notices[f"columns are separated by {separator!r}"].append(path)
    try:
        table = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        rows = _rows(text, separator, first + 1)
        width = len(next(rows, (0, []))[1])
        for line, row in rows:
            if len(row) > width:
                raise InputError(
                    f"{path}:{line}: has {len(row)} fields, the header {width}; quote fields that contain {separator!r}"
                ) from None
        raise error
    if table.height and table[:, -1].null_count():
        short = [line for line, row in _rows(text, separator, first + 1) if 0 < len(row) < table.width]
        if short:
            place = f"{path}:{short[0]} ({plural(len(short), 'such line')})"
            notices["lines with fewer fields than the header: the rest is missing"].append(place)
    table = _with_names(table, table.columns).with_columns(pl.all().str.strip_chars(" \t\r\n\xa0"))
    return _with_lines(path, table.drop("", strict=False), notices, first + 2)  # row numbers, or a comma at the end


def _rows(text: str, separator: str, line: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text with the number of the line on which each ends; the first line has number `line`."""
    reader = csv.reader(text.split("\n"), delimiter=separator)
    return ((reader.line_num + line - 1, row) for row in reader)


def _with_lines(path: str, table: pl.DataFrame, notices: Notices, first_line: int) -> Cells:
    is_filled = table.select(~pl.all_horizontal(pl.all().is_null())).to_series()
    lines = pl.int_range(first_line, first_line + table.height, eager=True)
    return Cells(path, table.filter(is_filled), notices, lines.filter(is_filled))


def decode_text(path: str, data: bytes, notices: Notices) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or, failing these, cp1252, with LF and without an end mark."""
    zeros = bytes(byte == 0 for byte in data[:4])
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), _WITHOUT_MARK.get(zeros))
    if encoding:
        text = data.decode(encoding)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")
            notices["is not UTF-8: read as cp1252, the Windows code of Western Europe"].append(path)
    return re.sub("\r+\n|\r", "\n", text).rstrip("\x1a\n")
