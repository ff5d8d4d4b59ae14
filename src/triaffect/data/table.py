"""Tables of any data set whose rows name an image, in the columns of the index.

Columns are recognised whatever their case, spaces and zeros (`AU01_c`); what is assumed is a notice, what cannot be
known an error. Missing is an empty cell, a word such as NA (`cells.MISSING_WORDS`), null, NaN, or a number that no
label has (`cells.MISSING_NUMBERS`, a notice); -1 is missing where it cannot be a value.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from triaffect.data.cells import MISSING_NUMBERS, MISSING_WORDS, Cells
from triaffect.data.known import CLASS_ORDERS, CLASS_WORDS, CODES, SPLIT_WORDS, add_images, class_order, most_voted
from triaffect.data.layout import SCHEMA
from triaffect.io import InputError, StrPath
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INDEX_COLUMNS, SPLITS, VA

OUTSIDE_ROOT = r"^[/\\]|^.{0,2}:|\\|(^|/)\.\.(/|$)"
"""Matches the name of an image that leaves its root."""

RANGES = {"valence": (-1, 1), "arousal": (-1, 1), "frame": (0, 2**31 - 1)}

COLUMN_WORDS = {
    "image": ("imagepath", "imagename", "imagefile", "imagelocation", "img", "imgpath", "filename", "filepath", "file",
              "path", "pth", "subdirectoryfilepath", "url", "originalurl"),
    "video": ("videoname", "videoid", "clip"),
    "frame": ("framenumber", "frameno", "frameid"),
    "split": ("usage", "subset", "partition"),
    "valence": ("val",),
    "arousal": ("aro",),
    "expression": ("expr", "expressionlabel", "expressionname", "expressionid", "facialexpression", "emotion",
                   "emotionlabel", "emotionname", "label", "labelname", "class", "classname"),
}  # fmt: skip
"""Column of the index -> other names for it, without case, spaces and signs; the first one that a table has is read."""

MISSING_UNITS = (9.0, *MISSING_NUMBERS)
"""Not coded, in the tables of FACS coders and of EmotioNet."""

UNIT_WORDS = dict.fromkeys(("true", "t", "yes", "y", "on", "x", "present", "active"), "1")
UNIT_WORDS |= dict.fromkeys(("false", "f", "no", "n", "off", "absent", "inactive"), "0")
"""Word for an active or inactive unit -> number."""


def recognise(cells: Cells, names: Sequence[str], affixes: str = "") -> None:
    """Rename the columns that are spelled in another way than `names`, and name the images of frames.

    `AU01`, `AU1_c` and `Action Unit 1` are AU1; `AU1_r` is AU1 where there is no other, an intensity.

    Args:
        cells: The table; its columns are renamed. Its notices receive what was renamed, and what was not though it is
            near.
        names: The columns to look for.
        affixes: Pattern of what may be before or after a name.

    Raises:
        InputError: Two columns are one, there is no row, or the images have no name.
    """
    table, path = cells.table, cells.path
    plain = {name: re.sub(r"_duplicated_\d+$", "", name) for name in table.columns if name not in names}
    keys = {name: re.sub("[^a-z0-9]", "", short.lower()) for name, short in plain.items()}
    for target in names:
        patterns = [target.lower(), *COLUMN_WORDS.get(target, ()), *CLASS_WORDS.get(target.title(), ())]
        if target.startswith("AU"):
            unit = f"(?:au|actionunit)0*{target[2:]}"
            patterns = [f"{unit}(?:c|presence|occurrence)?", f"{unit}(?:r|intensity)"]
        if affixes:
            patterns += [f"(?:{affixes})?{pattern}(?:{affixes})?" for pattern in patterns]
        in_table = [target] if target in table.columns else []
        if in_table:
            patterns = patterns[:1] if target != "image" else []
        for pattern in patterns:
            matches = [name for name, key in keys.items() if re.fullmatch(pattern, key)]
            same = in_table + [plain[name] for name in matches]
            if len(same) > 1:
                raise InputError(f"{path}: {same[0]!r} and {same[1]!r} are both {target}; remove one of them")
            if matches:
                cells.names[target] = matches[0]
                del keys[matches[0]]
                break
    for new, old in cells.names.items():
        cells.notices[f"{path}: columns read under another name"].append(f"{old!r} as {new}")
    absent = {name.lower(): name for name in names if name not in (*table.columns, *cells.names)}
    for name, key in keys.items():
        near = difflib.get_close_matches(key, absent, 1, 0.8)
        if near and not re.fullmatch("au[0-9]+", key):
            message = f"{path}: columns not read, though near a known name"
            cells.notices[message].append(f"{name!r}, near {absent[near[0]]}")
    cells.table = table.rename({old: new for new, old in cells.names.items()})
    if not table.height:
        raise InputError(f"{path}: has no rows below its header; write it again")
    if "image" not in cells.table.columns:
        _image_of_frames(cells)


def table_to_index(
    cells: Cells, images: StrPath | None, order: str | None = None, au_threshold: float | None = None
) -> pl.DataFrame:
    """Return the index of a table.

    Args:
        cells: A table with the column `image` (a path relative to the image root) and any of the index's columns.
            Others are returned unchanged, for `score --by`. The tables of `analyze` are read, too: a frame of a video
            is `<video>/00001.jpg`, and of several faces in an image the largest is taken. Its notices receive what was
            assumed.
        images: The image root; absolute paths must be below it.
        order: The data set of `known.CLASS_ORDERS` whose codes the column `expression` has; by default those of the
            index, unless the columns are a known data set's.
        au_threshold: Action units of this intensity and above are active.

    Returns:
        The index's columns, then the others. By default every image is a separate `video` (right for stills; frames of
        videos need the column, since intervals and leaks are by video), `frame` is the number in the image's name or
        else its position in the video, and `split` and `exists` are null.

    Raises:
        InputError: Names file, line (text) or row, column, value and how to fix it.
    """
    order = order or class_order(cells.table)
    if image_of_faces(cells):
        cells.note("images of analyze are named from the folder that they share: name it with --images")
    add_images(cells)
    recognise(cells, INDEX_COLUMNS)
    image = pl.col("image").cast(pl.String).str.strip_chars("'").str.replace_all(r"\\", "/").str.replace("^file://", "")
    image = image.str.replace(r"^(\./)+|^[a-z]+://.*/", "").str.replace_all("(.)/+", "$1/")
    if images is not None:
        root = Path(images).absolute().as_posix().rstrip("/") + "/"
        image = image.str.strip_prefix(root).str.strip_prefix(Path(images).resolve().as_posix().rstrip("/") + "/")
    cells.refuse("image", pl.col("image").is_null() | (pl.col("image").cast(pl.String) == ""), "write the image's path")
    cells.refuse("image", image.str.contains(OUTSIDE_ROOT), "use a path relative to the image root, or name that folder"
                 " with --images")  # fmt: skip
    order = order or class_order(cells.table)
    columns = cells.table.columns
    if {*VA, "expression"} <= {*columns}:
        is_missing = pl.all_horizontal(cells.numbers(name) == -1 for name in (*VA, "expression")).fill_null(False)
        if cells.has(is_missing):
            cells.note("valence and arousal of -1 are missing where the expression is -1, too")
            cells.table = cells.table.with_columns(pl.when(~is_missing).then(name).alias(name) for name in VA)
    if "expression" not in columns:
        _join_classes(cells)
    elif cells.table["expression"].dtype != pl.Null:
        to_codes(cells, order)
    for name in RANGES:
        if name in columns:
            _to_range(cells, name, order)
    for name in ACTION_UNITS:
        if name in columns:
            _to_active(cells, name, au_threshold)
    table = cells.table
    if "split" in columns:
        word = pl.col("split").cast(pl.String).str.to_lowercase()
        split = word.replace_strict(SPLIT_WORDS, default=None)
        is_unknown = split.is_null() & ~word.is_in(MISSING_WORDS)
        cells.refuse("split", is_unknown, f"write {', '.join(SPLITS)} or nothing")
        table = table.with_columns(split=split)
    elif (match := re.match("[a-z]*", Path(cells.path).stem.lower())) and (split_name := SPLIT_WORDS.get(match[0])):
        cells.note("split by the file's name", split_name)
        table = table.with_columns(split=pl.lit(split_name))
    if "exists" in columns:
        table = table.with_columns(pl.col("exists").cast(pl.String).str.to_lowercase().is_in(["true", "1"]))

    if table["image"].n_unique() < (rows := table.height):
        table = table.unique(maintain_order=True)
        if repeated := rows - table.height:
            cells.note("rows that are repeated are read once", f"{repeated:,}")
        if others := table.height - table["image"].n_unique():
            cells.note("images with more rows than one, which differ: all are kept", f"{others:,}")
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in table.columns]
    table = table.with_columns(image, *absent).with_columns(pl.coalesce(pl.col("video").cast(pl.String), "image"))
    number = pl.col("image").str.extract(r"(?:^|/)([0-9]{1,9})\.[^./]*$").cast(pl.Int32)
    position = pl.int_range(1, pl.len() + 1).over("video")
    table = table.with_columns(frame=pl.coalesce(pl.col("frame").cast(pl.Int32), number, position))
    return table.select(*(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()), pl.exclude(INDEX_COLUMNS))


def image_of_faces(cells: Cells) -> bool:
    """Give the table of `analyze` the columns `image` and `video`; any other table is left unchanged.

    A photo keeps its path, relative to the folder of all of them. A frame of a video is `<video>/00001.jpg`, counted
    from 1 as crops are. Rows without a face are left out, and of several faces in an image the largest is kept.

    Returns:
        Whether it is a table of `analyze`.
    """
    table = cells.table
    if "image" in table.columns or not {"file", "frame", "face", "w", "h"} <= set(table.columns):
        return False
    row, area = pl.int_range(pl.len()), pl.col("w") * pl.col("h")
    faces = (
        table.with_row_index("first_row")
        .with_columns(pl.col("frame", "w", "h").cast(pl.Float64, strict=False), pl.col("first_row").min().over("file"))
        .filter(pl.col("w").is_not_null())
        .filter(row.over("file", "frame") == area.arg_max().over("file", "frame"))
    )
    if left_out := table.height - faces.height:
        cells.note("rows of analyze left out: the largest face of each image counts", f"{left_out:,}")
    files = faces["file"].unique().to_list()
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files] or ["/"])
    names = {file: os.path.relpath(os.path.abspath(file), folder).replace(os.sep, "/") for file in files}
    name = pl.col("file").replace_strict(names, return_dtype=pl.String)
    number = (pl.col("frame") + 1).cast(pl.Int64)
    frame = pl.format("{}/{}.jpg", name.str.replace(r"\.[^./]*$", ""), number.cast(pl.String).str.zfill(5))
    of_video = pl.col("frame").max().over("file") > 0
    faces = faces.with_columns(image=pl.when(of_video).then(frame).otherwise(name), video=name, frame=number)
    cells.table, cells.lines = faces.sort("first_row", "frame", maintain_order=True).drop("first_row"), None
    return True


def _image_of_frames(cells: Cells) -> None:
    """Give a table with `video` and `frame` the names of crops: `video/00001.jpg`.

    Raises:
        InputError: It lacks these columns, or a frame is no whole number.
    """
    table = cells.table
    if not {"video", "frame"} <= set(table.columns):
        columns = ", ".join(table.columns[:8])
        advice = "give the column of the images this name, or give video and frame"
        raise InputError(f"{cells.path}: has no column 'image' (only {columns}); {advice}")
    number = cells.numbers("frame")
    is_legal = (number >= 0) & (number == number.floor())
    cells.refuse("frame", ~is_legal.fill_null(False), "write the number of the frame")
    from_zero = cells.has(number == 0)
    cells.note("images named by video and frame" + (", counted from 0" if from_zero else ""))
    number = (number + int(from_zero)).cast(pl.Int64)
    video = pl.col("video").cast(pl.String).str.replace(r"(?i)\.(mp4|avi|mov|mkv|webm|mpe?g|wmv)$", "")
    image = pl.format("{}/{}.jpg", video, number.cast(pl.String).str.zfill(5))
    cells.table = table.with_columns(image=image, video=video, frame=number)


def to_codes(cells: Cells, order: str | None = None) -> None:
    """Convert names and codes of classes to the codes of the index."""
    path, old = cells.path, cells.names.get("expression", "expression")
    word = pl.col("expression").cast(pl.String).str.to_lowercase().str.replace_all("[ _.-]", "")
    value = cells.numbers("expression")
    is_missing = value.is_null() | value.is_in((-1.0, *MISSING_NUMBERS))
    number = pl.when(~is_missing & value.is_not_nan()).then(value)
    if cells.has(is_missing & value.is_not_null()):
        cells.note("expressions of -1, -9 and the like are missing")
    is_named = order is not None or old.lower().strip().startswith("expr")
    if not is_named and cells.has(number.is_not_null()):
        raise InputError(
            f"{path}: column {old!r} holds codes whose order is not known; name the data set with index --format"
            f" ({', '.join(CLASS_ORDERS)}), or the column expression if 0 is {EXPRESSIONS[0]} and 7 {EXPRESSIONS[-1]}"
        )
    names = CLASS_ORDERS[order] if order else EXPRESSIONS
    codes = {float(i): EXPRESSIONS.index(name) for i, name in enumerate(names) if name}
    first, last = int(order == "rafdb"), len(names) - 1
    is_legal = number.is_between(first, last) & (number == number.floor())
    advice = f"write a whole number from {first} to {last}, or a class ({', '.join(EXPRESSIONS)})"
    is_wrong = ~is_missing & ~(word.is_in(list(CODES)) | is_legal.fill_null(False))
    cells.refuse("expression", is_wrong, f"{advice}, and nothing where it is missing")
    if order:
        words = ", ".join(f"{i} {name}" for i, name in enumerate(names) if name)
        cells.note(f"expression codes in the order of {order}: {words}")
    is_contempt = word.is_in(CLASS_WORDS["Contempt"]) | ((number == 7) if order == "affectnet" else False)
    if cells.has(is_contempt):
        cells.note("contempt is none of the eight expressions: read as Other")
    code = pl.coalesce(
        number.replace_strict(codes, default=None, return_dtype=pl.Int8),
        word.replace_strict(CODES, default=None, return_dtype=pl.Int8),
    )
    cells.table = cells.table.with_columns(expression=pl.when(~is_missing).then(code))


def _join_classes(cells: Cells) -> None:
    """Make the column `expression` of a column per class, of votes, probabilities, or 0 and 1."""
    names = {CODES[key]: name for name in cells.table.columns if (key := re.sub("[^a-z]", "", name.lower())) in CODES}
    if len(names) < 6:
        return
    for name in names.values():
        cells.to_number(name)
    codes = most_voted(cells.table.select(names.values()), list(names)).cast(pl.Int8)
    cells.table = cells.table.drop(names.values()).with_columns(expression=codes)
    cells.note("expression: the largest of the columns of classes, none on a tie")


def _to_range(cells: Cells, name: str, order: str | None) -> None:
    """Convert valence, arousal or the frame to numbers and check their range."""
    value, (low, high), is_integer = cells.numbers(name), RANGES[name], SCHEMA[name].is_integer()
    is_missing = value.is_in(MISSING_NUMBERS) if name in VA else pl.lit(False)
    if order != "affectnet" and cells.has(is_missing):
        cells.note("valence and arousal of -5, -9 and the like are missing")
    value = pl.when(~is_missing).then(value)
    is_legal = value.is_between(low - 1e-6, high + 1e-6) & ((value == value.floor()) | (not is_integer))
    kind = "a whole number" if is_integer else "a number"
    cells.refuse(name, ~is_legal, f"write {kind} from {low} to {high}, and nothing where it is missing")
    cells.table = cells.table.with_columns(value.clip(low, high).alias(name))


def _to_active(cells: Cells, name: str, au_threshold: float | None) -> None:
    """Convert an action unit to 0 or 1."""
    value = cells.numbers(name, UNIT_WORDS)
    values = cells.table.select(value).to_series()
    # Where 1 is active and 0 does not occur, -1 could be inactive.
    missing = MISSING_UNITS if (values == 1).any() and not (values == 0).any() else (-1.0, *MISSING_UNITS)
    if values.is_in(missing).any():
        cells.note("action units of 9, 999, -1 and the like are not coded: missing")
        value = pl.when(~value.is_in(missing)).then(value)
    if au_threshold is None:
        intensity = re.search("(r|intensity)$", cells.names.get(name, "").lower())
        values = values.filter(~values.is_in(missing))
        if not intensity and values.is_between(0, 1).all() and not values.is_in([0.0, 1.0]).all():
            cells.note("action units are probabilities: active from 0.5")
            value = (value >= 0.5).cast(pl.Float64)
        advice = "--au-threshold 2 makes intensities of 2 and above active"
        is_wrong = value.is_not_null() if intensity else ~value.is_in([0.0, 1.0])
        cells.refuse(name, is_wrong, f"write 0 or 1, and nothing where it is missing; {advice}")
    else:
        cells.refuse(name, ~value.is_between(0, 5), "write an intensity from 0 to 5, and nothing where it is missing")
        value = (value >= au_threshold).cast(pl.Float64)
    cells.table = cells.table.with_columns(value.alias(name))
