"""The result of each analyzed file, one Parquet file each, and the tables that are built from them."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from triaffect import __version__
from triaffect.data.index import METADATA, provenance
from triaffect.inference.summary import EPISODE_COLUMNS, SUMMARY_COLUMNS
from triaffect.io import atomic_path

CHUNK = 50_000
"""Rows that are in memory at once; Polars itself keeps 100,000 of a table that it writes."""

SMALL_TABLES = 200
"""Tables that are joined into one: a table of one row takes as much memory as one of a hundred."""

NO_FACE = "no face"
"""The kind of failure that is not tried again."""
UNREADABLE, DAMAGED, DIED, STOPPED, ERROR = "unreadable", "damaged", "died", "stopped", "error"
UNDRAWN = "not drawn"


@dataclass
class FileResult:
    """How the analysis of one input ended; it is kept, as JSON, in the metadata of the input's result.

    Attributes:
        file: Value of the column `file`.
        key: What the result depends on: the file's size and time, the model's hash, and the options.
        kind: Empty, or the kind of failure: `not found`, `unreadable`, `damaged`, `no face`, `not drawn`, `died`
            (its process), `stopped` (by Ctrl-C) or `error`.
        message: One line about the failure.
        frames: Number of frames that were read.
        frames_without_face: Number of those that show no face.
        faces: Number of rows.
        seconds: Time it took.
        summary: A dictionary per face, see `summary.summarize`.
        episodes: A dictionary per episode.
        notices: What a user should know of it.
        backend: What computed it.
        version: Version of triaffect.
    """

    file: str
    key: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    message: str = ""
    frames: int = 0
    frames_without_face: int = 0
    faces: int = 0
    seconds: float = 0.0
    summary: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    backend: str = ""
    version: str = __version__

    @classmethod
    def load(cls, path: Path, key: Mapping[str, Any]) -> FileResult | None:
        """Read a result; None if there is none, or it depends on something else."""
        content = provenance(path)
        return cls(**content) if content.get("key") == key else None

    def save(self, rows: pl.LazyFrame, path: Path, folder: Path) -> None:
        """Write the result of one input, at once.

        Args:
            rows: Its rows.
            path: Where to.
            folder: Where files are while they are written.
        """
        with atomic_path(path, folder) as tmp_path:
            rows.sink_parquet(tmp_path, metadata={METADATA: json.dumps(asdict(self))})


@contextlib.contextmanager
def _csv_writer(path: Path, columns: Sequence[str], temporary: Path | None) -> Iterator[csv.DictWriter[str]]:
    with atomic_path(path, temporary) as tmp_path, tmp_path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        yield writer


class Rows:
    """The rows of one input; those of a long video are on disk until they are complete.

    Args:
        schema: Their columns.
        folder: Where to put the rows of a long video; all are kept in memory if it is None.
    """

    def __init__(self, schema: pl.Schema, folder: Path | None) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=folder) if folder else None
        self.parts, self.files = [schema.to_frame()], 0

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self.folder:
            self.folder.cleanup()

    def add(self, rows: pl.DataFrame) -> None:
        """Add the rows of some frames."""
        self.parts.append(rows)
        if len(self.parts) > SMALL_TABLES:
            self.parts = [pl.concat(self.parts, rechunk=True)]
        if self.folder and sum(part.height for part in self.parts) > CHUNK:
            pl.concat(self.parts).write_parquet(Path(self.folder.name, f"{self.files:06d}.parquet"))
            self.parts, self.files = [rows.clear()], self.files + 1

    def scan(self) -> pl.LazyFrame:
        """All rows, in order."""
        tables = [pl.concat(self.parts).lazy()]
        if self.folder and self.files:
            tables.insert(0, pl.scan_parquet(sorted(Path(self.folder.name).iterdir()), glob=False))
        return pl.concat(tables)


def write_tables(
    results: Iterable[tuple[FileResult, Path | None]],
    folder: Path,
    schema: pl.Schema,
    source: Mapping[str, Any],
    temporary: Path | None = None,
) -> None:
    """Build `faces.parquet`, `faces.csv`, `summary.csv`, `episodes.csv` and `failures.csv`, in constant memory.

    Args:
        results: Of each input in order its result, and the file with its rows, if any.
        folder: Where to.
        schema: The columns of the rows.
        source: Provenance for the metadata of `faces.parquet`.
        temporary: A folder on the same file system for what is not complete; `folder` by default.
    """
    with (
        atomic_path(folder / "faces.parquet", temporary) as faces,
        atomic_path(folder / "faces.csv", temporary) as faces_csv,
        _csv_writer(folder / "summary.csv", SUMMARY_COLUMNS, temporary) as summary,
        _csv_writer(folder / "episodes.csv", EPISODE_COLUMNS, temporary) as episodes,
        _csv_writer(folder / "failures.csv", ("path", "kind", "message"), temporary) as failures,
        faces_csv.open("wb") as text,
    ):
        text.write(schema.to_frame().write_csv().encode())

        def tables(*_: Any) -> Iterator[pl.DataFrame]:
            batch = [schema.to_frame()]
            for result, path in results:
                file, frames = {"file": result.file}, result.frames
                counts = {"file_frames": frames, "frames_without_face": result.frames_without_face}
                summary.writerows(file | counts | row for row in result.summary or [{}] * bool(frames))
                episodes.writerows(file | row for row in result.episodes)
                if result.kind:
                    failures.writerow({"path": result.file, "kind": result.kind, "message": result.message})
                if path is not None:
                    rows = pl.read_parquet(path, glob=False)
                    rows.write_csv(text, include_header=False, float_precision=5)
                    batch.append(rows)
                if len(batch) > SMALL_TABLES or sum(rows.height for rows in batch) > CHUNK:
                    yield pl.concat(batch, rechunk=True)
                    batch = batch[:1]
            yield pl.concat(batch, rechunk=True)

        lazy = register_io_source(tables, schema=schema)
        lazy.sink_parquet(faces, metadata={METADATA: json.dumps({"triaffect": __version__, **source})})
