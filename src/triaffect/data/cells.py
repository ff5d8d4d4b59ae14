"""Tables as people save them, to named columns of text or numbers: CSV of any dialect, Excel, JSON, Parquet."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from triaffect.io import InputError, Notices, StrPath
from triaffect.text import plural

TEXT_SUFFIXES = (".csv", ".tsv", ".tab")
EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *EXCEL_SUFFIXES, ".json", ".jsonl", ".ndjson", ".parquet")

MISSING_WORDS = ("", "na", "n/a", "#n/a", "nan", "none", "null", "missing", "-", "--", "?", ".")
"""What people write where a value is missing, in any case."""


@dataclass
class Cells:
    """A table as it is in a file.

    Attributes:
        path: The file.
        table: Its columns; those of text files are all text, without spaces at their ends. Empty rows are left out.
        lines: The line of each row, for messages; None for files without lines.
        names: Column -> its name in the file, where that is another one.
    """

    path: StrPath
    table: pl.DataFrame
    lines: pl.Series | None = None
    names: dict[str, str] = field(default_factory=dict)

    def refuse(self, column: str, is_wrong: pl.Expr, advice: str) -> None:
        """Raise an InputError with line, column and value of the first wrong row, if there is one."""
        rows = self.table.select(is_wrong.fill_null(False).arg_true()).to_series()
        if len(rows):
            line = f"row {rows[0] + 1}" if self.lines is None else self.lines[rows[0]]
            value = self.table[column][rows[0]]
            name = self.names.get(column, column)
            raise InputError(f"{self.path}:{line}: {name} is {value!r} ({plural(len(rows), 'such row')}); {advice}")

    def to_number(self, column: str) -> None:
        """Convert a column to Float64, null where it is missing.

        Raises:
            InputError: A cell is neither a number nor a word for missing.
        """
        value = to_numbers(pl.col(column), self.table.schema[column])
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
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".parquet":
            return Cells(path, pl.read_parquet(Path(path)))
        if suffix == ".json":
            table = pl.read_json(Path(path))
            if all(isinstance(dtype, pl.Struct) for dtype in table.dtypes):  # pandas writes column -> row -> value
                table = pl.DataFrame({name: table[name].struct.unnest().row(0) for name in table.columns})
            return Cells(path, table)
        if suffix in (".jsonl", ".ndjson"):
            return _with_lines(path, pl.read_ndjson(Path(path)), 1)
        if suffix in EXCEL_SUFFIXES:
            table = pl.read_excel(Path(path), engine="calamine", infer_schema_length=None)
            return _with_lines(path, table.rename(str.strip), 2)
        return _read_text(Path(path), notices)
    except ModuleNotFoundError:
        raise InputError(f"{path}: Excel needs pip install 'triaffect[excel]'; or save it as CSV UTF-8") from None
    except InputError:
        raise
    except Exception as error:  # each reader raises its own errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a table ({reason}); save it as CSV UTF-8") from None


def _read_text(path: Path, notices: Notices) -> Cells:
    text, first_line = _decode(path, notices), 2
    header = text.partition("\n")[0]
    if match := re.fullmatch('"?sep=(.)"?;*', header):
        separator, text, first_line = match[1], text.partition("\n")[2], 3
    else:
        unquoted = re.sub('"[^"]*"', "", header)
        separator = max(",;\t|", key=unquoted.count)
    if separator != "," and path.suffix.lower() == ".csv":
        notices[f"columns are separated by {separator!r}"].append(str(path))
    try:
        table = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        rows = csv.reader(text.splitlines(), delimiter=separator)
        width = len(next(rows, []))
        for line, row in enumerate(rows, first_line):
            if len(row) > width:
                raise InputError(
                    f"{path}:{line}: has {len(row)} fields, the header {width}; quote fields that contain {separator!r}"
                ) from None
        raise error
    table = table.rename(str.strip).with_columns(pl.all().str.strip_chars())
    return _with_lines(path, table.drop("", strict=False), first_line)  # row numbers, or a comma at the end


def _with_lines(path: StrPath, table: pl.DataFrame, first_line: int) -> Cells:
    numbered = table.with_row_index("line", first_line) if "line" not in table.columns else table
    rows = numbered.filter(~pl.all_horizontal(pl.col(table.columns).is_null()))
    return Cells(path, rows.select(table.columns), rows["line"] if "line" not in table.columns else None)


def _decode(path: Path, notices: Notices) -> str:
    """The text of a file in UTF-8, UTF-16 or, failing these, cp1252, with LF."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16")
    elif b"\0" in data[:2]:  # without its mark
        text = data.decode("utf-16-be" if data[0] == 0 else "utf-16-le")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")
            notices["is not UTF-8: read as cp1252, the Windows code of Western Europe"].append(str(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def to_numbers(column: pl.Expr, dtype: pl.DataType | type[pl.DataType]) -> pl.Expr:
    """A column as Float64: words for missing are null, a decimal comma is a point, NaN is null.

    What is neither is NaN, for `Cells.refuse`.
    """
    if dtype == pl.String:
        is_missing = column.str.to_lowercase().is_in(MISSING_WORDS) | column.is_null()
        words = {"true": "1", "false": "0"}
        number = column.str.replace(r"^([+-]?[0-9]*),([0-9]+)$", "$1.$2").str.to_lowercase().replace(words)
        return pl.when(~is_missing).then(number.cast(pl.Float64, strict=False).fill_null(float("nan")))
    number = column.cast(pl.Float64, strict=False)
    return pl.when(~number.is_nan()).then(number)
