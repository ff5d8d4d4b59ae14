"""Tables of `analyze` in the formats of other tools: OpenFace, ELAN, BORIS, BIDS, and one row per frame."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from mimetypes import guess_type
from pathlib import Path, PurePath
from typing import Any

import jinja2
import polars as pl

from triaffect import __version__
from triaffect.data.cells import read_cells
from triaffect.data.columns import describe_column, resource
from triaffect.data.index import provenance
from triaffect.data.intervals import intervals
from triaffect.io import InputError, Notices, StrPath, atomic_path, write_text
from triaffect.labels import ACTION_UNITS, ACTIVE, AU_NAMES

Provenance = Mapping[str, Any]

TEXT_COLUMNS = ("file", "expression", "quality_flags")
"""Columns of `analyze` that hold no numbers."""


def read_faces(path: StrPath, notices: Notices | None = None) -> pl.DataFrame:
    """Read a table of `analyze`.

    Args:
        path: `faces.parquet` or `faces.csv`, also as a spreadsheet saved it; columns that are not of `analyze` are kept
            as they are.
        notices: Receives what was assumed.

    Raises:
        InputError: It cannot be read, lacks `file`, `frame`, `time` or `face`, or holds something that is no number.
    """
    cells = read_cells(path, Notices() if notices is None else notices)
    if missing := [name for name in ("file", "frame", "time", "face") if name not in cells.table.columns]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; give faces.parquet or faces.csv of analyze")
    for name in cells.table.columns:
        if name not in TEXT_COLUMNS and describe_column(name).meaning:
            cells.to_number(name)
    integers = pl.col("frame", "face").cast(pl.Int64)
    return cells.table.with_columns(integers).filter(pl.col("face").is_not_null())


def convert(
    source: StrPath, to: str, out: StrPath, threshold: float = ACTIVE, notices: Notices | None = None
) -> list[Path]:
    """Write a table of `analyze` in the format of another tool.

    Args:
        source: `faces.parquet` (which also holds where it comes from) or `faces.csv`.
        to: A key of `FORMATS`: openface, elan, boris, bids or csv-wide.
        out: The folder to write into.
        threshold: Probability from which an action unit is active.
        notices: As for `read_faces`.

    Returns:
        The files that were written.

    Raises:
        InputError: An unknown format; a table without faces, or without action units where the format needs them.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to}: choose from {', '.join(FORMATS)}")
    notices = Notices() if notices is None else notices
    rows = read_faces(source, notices)
    if not rows.height:
        raise InputError(f"{source}: holds no face, so there is nothing to convert")
    if to == "openface" and not any(name.endswith("_intensity") for name in rows.columns):
        notices["AUxx_r is five times the probability: the model has no scale of intensity"].append(str(source))
    origin = {"Name": "triaffect", "Version": __version__, "Source": str(source), "Threshold": threshold}
    return list(FORMATS[to](rows, Path(out), threshold, origin | {"Analysis": provenance(source)}))


def _names(rows: pl.DataFrame, pattern: str = "") -> dict[str, str]:
    """A different short name for each file of the table: its stem, without the characters of `pattern`."""
    names: dict[str, str] = {}
    for file in rows["file"].unique(maintain_order=True):
        stem = re.sub(pattern, "", PurePath(file.replace("\\", "/")).stem)[:120] if pattern else PurePath(file).stem
        stem, number, name = stem or "input", 2, stem or "input"
        while name in names.values():
            name, number = f"{stem}{number}" if pattern else f"{stem}-{number}", number + 1
        names[file] = name
    return names


def _write_json(path: Path, data: Mapping[str, Any]) -> Path:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False))
    return path


def _write_table(table: pl.DataFrame, path: Path, origin: Provenance, notes: Mapping[str, str]) -> list[Path]:
    """Write a CSV or TSV, and a JSON file of what its columns mean and where it comes from."""
    separator, null = ("\t", "n/a") if path.suffix == ".tsv" else (",", "")
    with atomic_path(path) as tmp_path:
        table.write_csv(tmp_path, separator=separator, null_value=null, float_precision=5)
    sidecar: dict[str, Any] = {"TaskName": "video"} if path.suffix == ".tsv" else {}
    for name in table.columns:
        column = describe_column(re.sub(r"_face\d+$", "", name))
        if meaning := notes.get(name, column.meaning):
            sidecar[name] = {"Description": meaning} | ({"Units": column.unit} if column.unit else {})
    return [path, _write_json(path.with_suffix(".json"), sidecar | {"GeneratedBy": [origin]})]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _openface(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> Iterator[Path]:
    """One CSV per input with the columns of OpenFace 2.

    AUxx_c is 0 or 1; AUxx_r is five times the intensity, or the probability of a model that knows no intensity.
    """
    units = [unit for unit in ACTION_UNITS if unit in rows.columns]
    if not units:
        raise InputError("the table has no action units, which OpenFace's columns consist of; use --to csv-wide")
    padded = {unit: f"AU{int(unit[2:]):02d}" for unit in units}
    notes = {"frame": "number of the frame, from 1", "face_id": "number of the face, from 0", "timestamp": "seconds"}
    notes |= {"confidence": "score of the face detector, 0 to 1", "success": "1: a face was found"}
    strength = {unit: grade if (grade := f"{unit}_intensity") in rows.columns else unit for unit in units}
    kinds = {unit: "probability, which is no intensity" if strength[unit] == unit else "intensity" for unit in units}
    notes |= {f"{padded[u]}_r": f"{AU_NAMES[u]}: 0 to 5, 5 x {kinds[u]}" for u in units}
    notes |= {f"{padded[u]}_c": f"{AU_NAMES[u]}: 1 if the probability is at least {threshold}" for u in units}
    for file, name in _names(rows).items():
        part = rows.filter(pl.col("file") == file).sort("frame", "face")
        table = part.select(
            pl.col("frame") + 1, face_id=pl.col("face") - 1, timestamp="time", confidence="score", success=pl.lit(1),
            **{f"{padded[unit]}_r": pl.col(strength[unit]) * 5 for unit in units},
            **{f"{padded[unit]}_c": (pl.col(unit) >= threshold).cast(pl.Int8) for unit in units},
        )  # fmt: skip
        yield from _write_table(table, out / f"{name}.csv", origin, notes)


def _csv_wide(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> Iterator[Path]:
    """One CSV with a row per frame; each column once for every face, such as `valence_face1`."""
    values = [name for name in rows.columns if name not in ("file", "frame", "time", "face")]
    faces = rows["face"].unique().sort().to_list()
    wide = rows.pivot("face", on_columns=faces, index=["file", "frame", "time"], values=values, separator="_face")
    yield from _write_table(wide.sort("file", "frame"), out / "faces_wide.csv", origin, {})


def _intervals(rows: pl.DataFrame, threshold: float) -> pl.DataFrame:
    table = intervals(rows, threshold)
    if not table.height:
        raise InputError("the table holds no video, so there are no intervals; photos go to openface or csv-wide")
    return table


def _elan(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> Iterator[Path]:
    """One EAF 3.0 file per video; a tier for each face's expression and each of its action units."""
    options = {"autoescape": True, "trim_blocks": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Template(resource("elan.xml"), **options)  # type: ignore[arg-type]
    table, names = _intervals(rows, threshold), _names(rows)
    ends = [(pl.col(end) * 1000).round().cast(pl.Int64).alias(end) for end in ("start", "stop")]
    table = table.with_columns(*ends, tier=pl.format("face {}: {}", "face", "tier"))
    for (file,), part in table.group_by("file", maintain_order=True):
        spans, path = part.with_row_index("number", 1).to_dicts(), Path(str(file)).absolute()
        slots = [(span[end], 2 * span["number"] + k) for span in spans for k, end in enumerate(("start", "stop"))]
        fields = {"url": path.as_uri(), "kind": guess_type(path)[0] or "video/*", "now": _now(), "spans": spans}
        eaf = out / f"{names[str(file)]}.eaf"
        write_text(eaf, template.render(**fields, slots=sorted(slots), origin=json.dumps(origin)))
        yield eaf


def _boris(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> Iterator[Path]:
    """One BORIS project: an observation per video, a subject per face, expressions and action units as state events."""
    table, names, empty = _intervals(rows, threshold), _names(rows), json.loads(resource("boris.json"))
    about = {"date": _now(), "description": json.dumps(origin)}
    observations: dict[str, Any] = {}
    for (file,), part in table.group_by("file", maintain_order=True):
        ends = [part.select("face", "label", time=pl.col(end).round(3)) for end in ("start", "stop")]
        events = pl.concat(ends).sort("time", maintain_order=True)
        media, times = str(Path(str(file)).absolute()), rows.filter(pl.col("file") == file)["time"].unique().sort()
        step = float(times.diff().median())  # type: ignore[arg-type]
        info = {"length": part["stop"].max(), "fps": 1 / step, "hasVideo": True, "hasAudio": False}
        observations[names[str(file)]] = empty["observation"] | about | {
            "file": {str(player): [media] if player == 1 else [] for player in range(1, 9)},
            "media_info": {key: {media: value} for key, value in info.items()},
            "events": [[time, f"face {face}", label, "", ""] for face, label, time in events.iter_rows()],
        }  # fmt: skip
    labels = table["label"].unique().sort()
    ethogram = [{"code": n, "category": "action unit", "description": AU_NAMES[n]} if n in AU_NAMES else
                {"code": n, "category": "expression"} for n in labels]  # fmt: skip
    subjects = [{"key": "", "name": f"face {face}", "description": ""} for face in table["face"].unique().sort()]
    project = empty["project"] | {f"project_{key}": value for key, value in about.items()}
    project |= {"observations": observations, "subjects_conf": {str(i): value for i, value in enumerate(subjects)}}
    project["behaviors_conf"] = {str(i): empty["behaviour"] | value for i, value in enumerate(ethogram)}
    yield _write_json(out / "triaffect.boris", project)


def _bids(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> Iterator[Path]:
    """A BIDS data set: each input is a subject with a `_beh.tsv` (a row per face and frame) and `_events.tsv`."""
    names = _names(rows, "[^A-Za-z0-9]")
    description = {"Name": "Facial affect described by triaffect", "BIDSVersion": "1.10.0", "GeneratedBy": [origin]}
    yield _write_json(out / "dataset_description.json", description)
    readme = out / "README.md"
    write_text(readme, "Made by `triaffect convert --to bids`. Each input is one subject: rename as needed.\n")
    yield readme
    people = pl.DataFrame({"participant_id": [f"sub-{name}" for name in names.values()], "source_file": list(names)})
    notes = {"participant_id": "subject", "source_file": "the photo or video"}
    yield from _write_table(people, out / "participants.tsv", origin, notes)
    spans = intervals(rows, threshold)
    notes = {"trial_type": "the expression, or the active action unit"}
    for file, name in names.items():
        stem = out / f"sub-{name}" / "beh" / f"sub-{name}_task-video"
        part_rows = rows.filter(pl.col("file") == file).sort("frame", "face").drop("file")
        yield from _write_table(part_rows, stem.with_name(f"{stem.name}_beh.tsv"), origin, {})
        part = spans.filter(pl.col("file") == file)
        if part.height:
            length = pl.col("stop") - pl.col("start")
            events = part.select(onset="start", duration=length, trial_type="label", face="face")
            events = events.sort("onset", maintain_order=True)
            yield from _write_table(events, stem.with_name(f"{stem.name}_events.tsv"), origin, notes)


FORMATS: dict[str, Callable[[pl.DataFrame, Path, float, Provenance], Iterator[Path]]] = {
    "openface": _openface, "elan": _elan, "boris": _boris, "bids": _bids, "csv-wide": _csv_wide,
}  # fmt: skip
"""Name -> function that writes it and yields the files."""
