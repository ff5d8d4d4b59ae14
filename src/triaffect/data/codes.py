"""What people coded in videos, from ELAN, BORIS or a table, as one row per frame of ours."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePath

import polars as pl

from triaffect.data.cells import Cells, read_cells
from triaffect.io import InputError, Notices, StrPath
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, VA

TARGETS = (*VA, "expression", *ACTION_UNITS)

NAMES = {
    "start (s)": "start", "begin time - ss.msec": "start", "onset": "start", "stop (s)": "stop",
    "end time - ss.msec": "stop", "offset": "stop", "behavior": "label", "behaviour": "label", "annotation": "label",
    "trial_type": "label", "subject": "face", "tier": "face", "observation id": "file", "timestamp": "time",
}  # fmt: skip
"""Columns of the tables that BORIS, ELAN and BIDS write -> ours."""

SPELLING = {name.lower(): name for name in (*TARGETS, *EXPRESSIONS, "file", "frame", "time", "face", "label")}

NUMBERS = ("start", "stop", "duration", "time", "frame", *VA, *ACTION_UNITS)


def read_codes(path: StrPath, notices: Notices | None = None) -> pl.DataFrame:
    """Read the codes of one file.

    Args:
        path: An ELAN file (.eaf); a table of intervals (`start`, `stop` in seconds and `label`, also as BORIS, ELAN and
            BIDS name them); or a table of frames (`frame`, from 0, or `time` in seconds, and columns of `TARGETS`).
            A label is an action unit (AU12) or an expression. Any kind of table that `cells.read_cells` reads.
        notices: Receives what was assumed.

    Returns:
        `file` (null if the table has none), `face` (null likewise), and `start`, `stop`, `label`, or the columns of
        frames. Labels and targets have our spelling (`au06` is AU6, `happiness` Happiness).

    Raises:
        InputError: It cannot be read, or has neither intervals nor frames.
    """
    is_elan = Path(path).suffix.lower() == ".eaf"
    notices = Notices() if notices is None else notices
    cells = Cells(os.fspath(path), _read_elan(Path(path)), notices) if is_elan else read_cells(path, notices)
    columns = {column: NAMES.get(column.strip().lower(), _spelling(column)) for column in cells.table.columns}
    if len(set(columns.values())) < len(columns):
        raise InputError(f"{path}: two columns mean the same; keep one of {', '.join(columns)}")
    cells.table, cells.names = cells.table.rename(columns), {ours: theirs for theirs, ours in columns.items()}
    for column in {*NUMBERS} & {*cells.table.columns}:
        cells.to_number(column)
    table = cells.table
    if "duration" in table.columns and "stop" not in table.columns and "start" in table.columns:
        table = table.with_columns(stop=pl.col("start") + pl.col("duration"))
    names = set(table.columns)
    if {"start", "stop", "label"} <= names:
        table = table.with_columns(pl.col("label").map_elements(_spelling, pl.String))
        if not set(table["label"]) & {*ACTION_UNITS, *EXPRESSIONS}:
            raise InputError(f"{path}: no label is an action unit (AU12) or an expression ({', '.join(EXPRESSIONS)})")
    elif {"frame", "time"} & names and set(TARGETS) & names:
        table = table.drop("start", "stop", "label", strict=False)
    else:
        needs = "start, stop and label (intervals), or frame or time and columns such as AU12 or valence"
        raise InputError(f"{path}: needs {needs}")
    absent = [pl.lit(None, pl.String).alias(key) for key in ("file", "face") if key not in table.columns]
    return table.with_columns(absent).with_columns(
        pl.col("file").cast(pl.String), pl.col("face").cast(pl.String).str.extract(r"(?:^|face )(\d+)").cast(pl.Int64)
    )


def _spelling(name: str | None) -> str:
    """A target or label in our spelling, anything else as it is."""
    text = (name or "").strip()
    if unit := re.fullmatch(r"(?i)au_?0*(\d+)(?:_[cr])?", text):
        return f"AU{unit[1]}"
    return SPELLING.get(text.lower(), text)


def _read_elan(path: Path) -> pl.DataFrame:
    """The annotations of an EAF file; a tier is named after a face (`face 1: AU12`), a unit, or anything."""
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    times = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    rows: list[tuple[str, float | None, float | None, str | None]] = []
    for tier in root.iter("TIER"):
        name = tier.get("TIER_ID", "")
        unit = _spelling(name.rpartition(":")[2])
        if unit in ACTION_UNITS:  # coded, even if it never occurs
            rows.append((name, None, None, unit))
        for span in tier.iter("ALIGNABLE_ANNOTATION"):
            start, stop = (times[span.get(f"TIME_SLOT_REF{end}")] for end in (1, 2))
            # In a tier that is named after an action unit, an annotation may hold anything, such as a grade.
            label = unit if unit in ACTION_UNITS else span.findtext("ANNOTATION_VALUE")
            rows.append((name, int(start or 0) / 1000, int(stop or 0) / 1000, label))
    schema = {"face": pl.String, "start": pl.Float64, "stop": pl.Float64, "label": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


def codes_of_frames(rows: pl.DataFrame, paths: list[str]) -> tuple[pl.DataFrame, list[str]]:
    """Give every frame of ours its codes.

    Args:
        rows: An `Analyzer` table.
        paths: Files of codes. Videos are matched by name without folder and ending: that in the column `file`, or else
            that of the file of codes itself, or else the only video of the table. Without a face, codes belong to the
            face that is visible longest. An action unit that has intervals anywhere is 0 in all other frames of the
            videos with intervals.

    Returns:
        `file`, `time`, our columns, and the codes as `TARGET_code` (action units 0 or 1, or the intensity as it was
        coded; expressions as 0 to 7; null where nothing was coded), on the frames of coded faces; and notices.

    Raises:
        InputError: As `read_codes`; no video or no frame matches.
    """
    stems: dict[str, list[str]] = {}
    for file in rows["file"].unique().sort():
        stems.setdefault(PurePath(file.replace("\\", "/")).stem, []).append(file)
    parts, notices, assumed = [], [], Notices()
    tables = [read_codes(path, assumed) for path in paths]
    labels = {label for table in tables if "label" in table.columns for label in table["label"]}
    units = [unit for unit in ACTION_UNITS if unit in labels]
    for path, codes in zip(paths, tables, strict=True):
        for (name, number), part in codes.group_by("file", "face", maintain_order=True):
            stem = PurePath(str(name or path).replace("\\", "/")).stem
            files = stems.get(stem) or (next(iter(stems.values())) if name is None and len(stems) == 1 else [])
            if len(files) != 1:
                matches = "more than one video" if files else "no video"
                raise InputError(f"{path}: codes {stem}, which is {matches} of the table; it has {', '.join(stems)}")
            frames = rows.filter(pl.col("file") == files[0])
            face = number or frames["face"].value_counts(sort=True)["face"][0]
            if number is None and frames["face"].n_unique() > 1:
                notices.append(f"{path}: names no face; compared with face {face}, which is visible longest")
            frames = frames.filter(pl.col("face") == face).sort("time")
            joined = _join_intervals(frames, part, units) if "label" in codes.columns else _join_frames(frames, part)
            parts.append(joined)
    table = pl.concat(parts, how="diagonal")
    keys = ["file", "face", "frame"]
    coded = [name for name in table.columns if name.endswith("_code")]
    # One coder may have a file per face or per unit: what is coded in several files is put together.
    table = table.group_by(keys, maintain_order=True).agg(pl.exclude(*keys, *coded).first(), pl.col(coded).max())
    if not table.select(pl.any_horizontal(pl.col(coded).is_not_null().any())).item():
        raise InputError(f"{paths[0]}: no coded frame is a frame of the table; compare the times or frame numbers")
    return table, notices + assumed.lines()


def _join_intervals(frames: pl.DataFrame, spans: pl.DataFrame, units: list[str]) -> pl.DataFrame:
    """Codes from intervals: a unit that anyone coded is 0 outside of its intervals, an expression unknown."""
    middle = pl.col("time") + float(frames["time"].diff().median() or 0) / 2  # type: ignore[arg-type]
    inside = {
        label: pl.any_horizontal([middle.is_between(*ends) for ends in part.select("start", "stop").iter_rows()])
        for (label,), part in spans.drop_nulls("start").group_by("label")
    }
    columns = [inside.get(unit, pl.lit(False)).cast(pl.Float64).alias(f"{unit}_code") for unit in units]
    classes = [pl.when(inside[n]).then(float(code)) for code, n in enumerate(EXPRESSIONS) if n in inside]
    return frames.with_columns(*columns, *([pl.coalesce(classes).alias("expression_code")] if classes else []))


def _join_frames(frames: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    """Codes of frames, by number, or by the nearest time within half a step."""
    targets = [name for name in TARGETS if name in codes.columns]
    numbers = {name: float(code) for code, name in enumerate(EXPRESSIONS)}
    if "expression" in targets and codes.schema["expression"] == pl.String:
        named = pl.col("expression").map_elements(_spelling, pl.String).replace_strict(numbers, default=None)
        codes = codes.with_columns(pl.coalesce(named, pl.col("expression").cast(pl.Float64, strict=False)))
    key = "frame" if "frame" in codes.columns else "time"
    values = [pl.col(name).cast(pl.Float64).alias(f"{name}_code") for name in targets]
    codes = codes.select(pl.col(key).cast(frames.schema[key]), *values)
    if key == "frame":
        return frames.join(codes.unique("frame"), on="frame", how="left", maintain_order="left")
    step = max(float(frames["time"].diff().median() or 0), float(codes["time"].diff().median() or 0))  # type: ignore[arg-type]
    return frames.join_asof(codes.sort("time"), on="time", strategy="nearest", tolerance=step / 2 + 1e-6)
