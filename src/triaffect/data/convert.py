"""Tables of `analyze` in the formats of other tools: OpenFace, ELAN, BORIS, BIDS, and one row per frame."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from mimetypes import guess_type
from pathlib import Path, PurePath
from typing import Any

import polars as pl

from triaffect import __version__
from triaffect.data.columns import describe_column
from triaffect.data.index import provenance
from triaffect.data.intervals import intervals
from triaffect.io import InputError, StrPath, atomic_path, write_text
from triaffect.labels import ACTION_UNITS, AU_NAMES

Provenance = Mapping[str, Any]


def read_faces(path: StrPath) -> pl.DataFrame:
    """Read a table of `analyze`.

    Args:
        path: `faces.parquet` or `faces.csv`.

    Raises:
        InputError: It cannot be read, or lacks `file`, `frame`, `time` or `face`.
    """
    try:
        name = Path(path)
        table = pl.read_parquet(name) if name.suffix == ".parquet" else pl.read_csv(name, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); give faces.parquet") from None
    if missing := [name for name in ("file", "frame", "time", "face") if name not in table.columns]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; give faces.parquet or faces.csv of analyze")
    return table.filter(pl.col("face").is_not_null())


def convert(source: StrPath, to: str, out: StrPath, threshold: float = 0.5) -> list[Path]:
    """Write a table of `analyze` in the format of another tool.

    Args:
        source: `faces.parquet` (which also holds where it comes from) or `faces.csv`.
        to: A key of `FORMATS`: openface, elan, boris, bids or csv-wide.
        out: The folder to write into.
        threshold: Probability from which an action unit is active.

    Returns:
        The files that were written.

    Raises:
        InputError: An unknown format; a table without faces, or without action units where the format needs them.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to}: choose from {', '.join(FORMATS)}")
    rows = read_faces(source)
    if not rows.height:
        raise InputError(f"{source}: holds no face, so there is nothing to convert")
    origin = {"Name": "triaffect", "Version": __version__, "Source": str(source), "Threshold": threshold}
    return FORMATS[to](rows, Path(out), threshold, origin | {"Analysis": provenance(source)})


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


def _write_table(table: pl.DataFrame, path: Path, origin: Provenance, notes: Mapping[str, str]) -> list[Path]:
    """Write a CSV or TSV, and beside it what its columns mean and where it comes from."""
    separator, null = ("\t", "n/a") if path.suffix == ".tsv" else (",", "")
    with atomic_path(path) as tmp_path:
        table.write_csv(tmp_path, separator=separator, null_value=null, float_precision=5)
    sidecar: dict[str, Any] = {"TaskName": "video"} if path.suffix == ".tsv" else {}
    for name in table.columns:
        column = describe_column(re.sub(r"_face\d+$", "", name))
        if meaning := notes.get(name, column.meaning):
            sidecar[name] = {"Description": meaning} | ({"Units": column.unit} if column.unit else {})
    write_text(path.with_suffix(".json"), json.dumps(sidecar | {"GeneratedBy": [origin]}, indent=1, ensure_ascii=False))
    return [path, path.with_suffix(".json")]


def _openface(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> list[Path]:
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
    files: list[Path] = []
    for file, name in _names(rows).items():
        part = rows.filter(pl.col("file") == file).sort("frame", "face")
        table = part.select(
            pl.col("frame") + 1, face_id=pl.col("face") - 1, timestamp="time", confidence="score", success=pl.lit(1),
            **{f"{padded[unit]}_r": pl.col(strength[unit]) * 5 for unit in units},
            **{f"{padded[unit]}_c": (pl.col(unit) >= threshold).cast(pl.Int8) for unit in units},
        )  # fmt: skip
        files += _write_table(table, out / f"{name}.csv", origin, notes)
    return files


def _csv_wide(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> list[Path]:
    """One CSV with a row per frame; each column once for every face, such as `valence_face1`."""
    values = [name for name in rows.columns if name not in ("file", "frame", "time", "face")]
    faces = rows["face"].unique().sort().to_list()
    wide = rows.pivot("face", on_columns=faces, index=["file", "frame", "time"], values=values, separator="_face")
    return _write_table(wide.sort("file", "frame"), out / "faces_wide.csv", origin, {})


def _intervals(rows: pl.DataFrame, threshold: float) -> pl.DataFrame:
    table = intervals(rows, threshold)
    if not table.height:
        raise InputError("the table holds no video, so there are no intervals; photos go to openface or csv-wide")
    return table


def _elan(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> list[Path]:
    """One EAF 3.0 file per video; a tier for each face's expression and each of its action units."""
    files: list[Path] = []
    table, names = _intervals(rows, threshold), _names(rows)
    for (file,), part in table.group_by("file", maintain_order=True):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        root = ET.Element("ANNOTATION_DOCUMENT", AUTHOR="triaffect", DATE=now, FORMAT="3.0", VERSION="3.0")
        root.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
        root.set("xsi:noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
        header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
        path = Path(str(file)).absolute()
        ET.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=path.as_uri(), MIME_TYPE=guess_type(path)[0] or "video/*")
        ET.SubElement(header, "PROPERTY", NAME="GeneratedBy").text = json.dumps(origin)
        order = ET.SubElement(root, "TIME_ORDER")
        slots: list[tuple[int, str]] = []
        for (face, tier), spans in part.group_by("face", "tier", maintain_order=True):
            node = ET.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="interval", TIER_ID=f"face {face}: {tier}")
            for start, stop, label in spans.select("start", "stop", "label").iter_rows():
                first, last = f"ts{len(slots) + 1}", f"ts{len(slots) + 2}"
                ends = {"TIME_SLOT_REF1": first, "TIME_SLOT_REF2": last}
                slots += [(round(start * 1000), first), (round(stop * 1000), last)]
                holder = ET.SubElement(node, "ANNOTATION")
                span = ET.SubElement(holder, "ALIGNABLE_ANNOTATION", ends, ANNOTATION_ID=f"a{len(slots) // 2}")
                ET.SubElement(span, "ANNOTATION_VALUE").text = str(label)
        for milliseconds, slot in sorted(slots):
            ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(milliseconds))
        kind = {"LINGUISTIC_TYPE_ID": "interval", "TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
        ET.SubElement(root, "LINGUISTIC_TYPE", kind)
        files.append(out / f"{names[str(file)]}.eaf")
        write_text(files[-1], '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode"))
    return files


def _boris(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> list[Path]:
    """One BORIS project: an observation per video, a subject per face, expressions and action units as state events."""
    table, names = _intervals(rows, threshold), _names(rows)
    labels = table.select("tier", "label").unique().sort("tier", "label")
    faces = table["face"].unique().sort().to_list()
    ethogram = {
        str(number): {
            "type": "State event", "key": "", "code": label, "description": AU_NAMES.get(label, "expression"),
            "category": "expression" if tier == "expression" else "action unit",
            "modifiers": {}, "excluded": "", "coding map": "",
        }
        for number, (tier, label) in enumerate(labels.iter_rows())
    }  # fmt: skip
    observations: dict[str, Any] = {}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for (file,), part in table.group_by("file", maintain_order=True):
        times = rows.filter(pl.col("file") == file)["time"].unique().sort()
        starts = part.select(at="start", face="face", label="label")
        events = pl.concat([starts, part.select(at="stop", face="face", label="label")]).sort("at", maintain_order=True)
        media = str(Path(str(file)).absolute())
        info = {"length": float(part["stop"].max()), "fps": 1 / float(times.diff().median()), "hasVideo": True}  # type: ignore[arg-type]
        observations[names[str(file)]] = {
            "type": "MEDIA", "date": now, "description": json.dumps(origin), "time offset": 0.0,
            "file": {"1": [media]} | {str(player): [] for player in range(2, 9)},
            "media_info": {key: {media: value} for key, value in (info | {"hasAudio": False}).items()},
            "independent_variables": {}, "visualize_spectrogram": False, "close_behaviors_between_videos": False,
            "events": [[round(at, 3), f"face {face}", label, "", ""] for at, face, label in events.iter_rows()],
        }  # fmt: skip
    project = {
        "time_format": "hh:mm:ss", "project_date": now, "project_name": "triaffect", "project_format_version": "7.0",
        "project_description": json.dumps(origin), "behaviors_conf": ethogram, "observations": observations,
        "subjects_conf": {str(i): {"key": "", "name": f"face {f}", "description": ""} for i, f in enumerate(faces)},
        "behavioral_categories": ["action unit", "expression"], "independent_variables": {}, "coding_map": {},
        "behaviors_coding_map": [], "converters": {},
    }  # fmt: skip
    write_text(out / "triaffect.boris", json.dumps(project, indent=1, ensure_ascii=False))
    return [out / "triaffect.boris"]


def _bids(rows: pl.DataFrame, out: Path, threshold: float, origin: Provenance) -> list[Path]:
    """A BIDS data set: each input is a subject with a `_beh.tsv` (a row per face and frame) and `_events.tsv`."""
    names = _names(rows, "[^A-Za-z0-9]")
    description = {"Name": "Facial affect described by triaffect", "BIDSVersion": "1.10.0", "GeneratedBy": [origin]}
    write_text(out / "dataset_description.json", json.dumps(description, indent=1, ensure_ascii=False))
    write_text(
        out / "README.md", "Made by `triaffect convert --to bids`. Each input is one subject: rename as needed.\n"
    )
    files = [out / "dataset_description.json", out / "README.md"]
    people = pl.DataFrame({"participant_id": [f"sub-{name}" for name in names.values()], "source_file": list(names)})
    notes = {"participant_id": "subject", "source_file": "the photo or video"}
    files += _write_table(people, out / "participants.tsv", origin, notes)
    spans = intervals(rows, threshold)
    notes = {"trial_type": "the expression, or the active action unit"}
    for file, name in names.items():
        stem = out / f"sub-{name}" / "beh" / f"sub-{name}_task-video"
        own = rows.filter(pl.col("file") == file).sort("frame", "face").drop("file")
        files += _write_table(own, stem.with_name(f"{stem.name}_beh.tsv"), origin, {})
        part = spans.filter(pl.col("file") == file)
        if part.height:
            events = part.select(
                onset="start", duration=pl.col("stop") - pl.col("start"), trial_type="label", face="face"
            )
            files += _write_table(events, stem.with_name(f"{stem.name}_events.tsv"), origin, notes)
    return files


FORMATS: dict[str, Callable[[pl.DataFrame, Path, float, Provenance], list[Path]]] = {
    "openface": _openface, "elan": _elan, "boris": _boris, "bids": _bids, "csv-wide": _csv_wide,
}  # fmt: skip
"""Name -> function that writes it."""
