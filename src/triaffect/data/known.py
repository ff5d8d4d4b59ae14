"""Data sets as they are distributed: AffectNet, RAF-DB, FER2013, FER+ and DISFA, in the columns of a generic table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triaffect.data.cells import Cells, decode_text, read_cells
from triaffect.io import InputError, Notices, StrPath
from triaffect.jobs import prefetch
from triaffect.labels import EXPRESSIONS, SPLITS

CLASS_WORDS = {
    "Neutral": ("neutrality", "calm", "neu", "ne", "noexpression"),
    "Anger": ("angry", "ang", "an", "rage"),
    "Disgust": ("disgusted", "disgusting", "dis", "di"),
    "Fear": ("fearful", "afraid", "scared", "fea", "fe", "af"),
    "Happiness": ("happy", "joy", "joyful", "enjoyment", "smile", "smiling", "hap", "ha"),
    "Sadness": ("sad", "sorrow", "sa"),
    "Surprise": ("surprised", "surprize", "astonished", "sur", "su"),
    "Other": ("others", "oth"),
    "Contempt": ("contempt", "contemptuous", "con"),
}
"""Class -> other words for it, and the short forms of JAFFE, KDEF and others; contempt is none of the eight."""

CODES = {word: code for code, name in enumerate(EXPRESSIONS) for word in (name.lower(), *CLASS_WORDS[name])}
CODES |= dict.fromkeys(CLASS_WORDS["Contempt"], EXPRESSIONS.index("Other"))
"""Word -> code of the index."""

SPLIT_WORDS = {name: name for name in SPLITS} | {"training": "train", "testing": "test", "privatetest": "test"}
SPLIT_WORDS |= dict.fromkeys(("validation", "valid", "dev", "publictest"), "val")
"""Word -> split."""

CLASS_ORDERS: dict[str, tuple[str | None, ...]] = {
    "affectnet": ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Other", None, None, None),
    "fer2013": ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"),
    "rafdb": (None, "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"),
}
"""Data set -> the class of each of its codes, from 0. AffectNet's 7 is contempt; its 8 to 10 (none, uncertain, no face)
are missing. RAF-DB counts from 1."""

DISFA_THRESHOLD = 2.0
"""Intensity (0 to 5) from which an action unit of DISFA is active, as most papers on it have it."""


def class_order(table: pl.DataFrame) -> str | None:
    """The data set of `CLASS_ORDERS` whose columns, or names of images, a table has."""
    keys = {re.sub("[^a-z]", "", name.lower()) for name in table.columns}
    if {"facex", "facey", "facewidth", "faceheight"} <= keys:
        return "affectnet"
    if {"emotion", "pixels"} <= keys:
        return "fer2013"
    name = r"^(.*/)?(train|test)_[0-9]{4,5}(_aligned)?\.(jpg|png)$"
    is_rafdb = "image" in table.columns and table["image"].cast(pl.String).str.contains(name).all()
    return "rafdb" if is_rafdb and table.height else None


def add_images(cells: Cells) -> None:
    """Give the tables of FER2013 and FER+ the columns `image` and `expression`; others are left unchanged.

    FER2013 holds its pictures as text: `write_pictures` writes them under the names that FER+ gives them. The class of
    FER+ is the one with the most of ten votes; it is missing on a tie and where most chose unknown or no face.
    """
    table = cells.table
    columns = {name.lower().strip().replace("_", " "): name for name in table.columns}
    if "pixels" in columns and "image" not in columns:
        name = pl.format("fer{}.png", pl.int_range(pl.len()).cast(pl.String).str.zfill(7))
        cells.table = table.with_columns(image=name).drop(columns["pixels"])
        return
    if not {"image name", "nf", "unknown", "contempt"} <= set(columns):
        return
    words = [*(name.lower() for name in EXPRESSIONS[:-1]), "contempt", "unknown", "nf"]
    try:
        votes = table.select(pl.col(columns[word]).cast(pl.Float64) for word in words)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{cells.path}: a vote is no number ({str(error).splitlines()[0]})") from None
    expression = most_voted(votes, [*EXPRESSIONS[:-1], "contempt", "", ""])
    rows = table.with_columns(expression=expression).rename({columns["image name"]: "image"}).drop(votes.columns)
    cells.table = rows.filter(pl.col("image").is_not_null() & (pl.col("image") != ""))
    cells.note(
        "FER+: the expression with the most votes, none on a tie; pictures without a name left out",
        f"{table.height - cells.table.height:,}",
    )


def most_voted(votes: pl.DataFrame, names: Sequence[Any]) -> pl.Series:
    """The name of the column with the largest number in each row; null on a tie."""
    values = votes.fill_null(0).to_numpy()
    is_clear = (values == values.max(1, keepdims=True)).sum(1) == 1
    return pl.select(pl.when(pl.Series(is_clear)).then(pl.Series(names).gather(values.argmax(1)))).to_series()


def holds_pictures(path: StrPath) -> bool:
    """Whether a file is the table of FER2013, by its first line."""
    try:
        with open(path, "rb") as file:
            words = re.split(b"[,;\t]", file.readline(200).lower())
            return b"pixels" in {word.strip(b' "\r\n\xef\xbb\xbf') for word in words}
    except OSError:
        return False


def write_pictures(path: StrPath, folder: Path) -> int:
    """Write the pictures of FER2013 (48 px, grey) as PNG, named as by `with_images`; returns their number.

    Raises:
        InputError: A row does not hold the numbers of a square picture.
    """
    import cv2

    cells = read_cells(path, Notices())
    folder.mkdir(parents=True, exist_ok=True)
    column = next(name for name in cells.table.columns if name.lower().strip() == "pixels")
    for row, text in enumerate(cells.table[column]):
        try:
            values = np.array((text or "").split(), np.uint8)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}: row {row + 1} holds no pixels from 0 to 255 ({error})") from None
        side = int(len(values) ** 0.5)
        if not side or side * side != len(values):
            raise InputError(f"{path}: row {row + 1} holds {len(values)} pixels, no square picture; copy it again")
        (folder / f"fer{row:07d}.png").write_bytes(cv2.imencode(".png", values.reshape(side, side))[1].tobytes())
    return cells.table.height


def find_known(root: Path, numbers: bool = False) -> str | None:
    """The data set that a folder, or the list of RAF-DB, holds.

    Args:
        root: The folder or list.
        numbers: Folders of classes may have the names of codes.
    """
    if root.is_file():
        return "rafdb" if re.fullmatch(r"list_par?tition_label\.txt", root.name.lower()) else None
    for name, (_, globs) in DATA_SETS.items():
        if any(any(root.glob(glob)) for glob in globs):
            return name
    return "folders" if class_folders(root, numbers) else None


def class_folders(root: Path, numbers: bool = False) -> list[Path]:
    """Folders named as classes (or codes), below the root or `train` and `test`; none if others are among them."""
    inner = [path for path in root.iterdir() if path.is_dir()]
    splits = [path for path in inner if path.name.lower() in SPLIT_WORDS]
    folders = [path for split in splits for path in split.iterdir() if path.is_dir()] if splits else inner
    is_class = all(path.name.lower() in CODES or (numbers and path.name.isdecimal()) for path in folders)
    return sorted(folders) if len(folders) > 1 and is_class else []


def _folders(root: Path, notices: Notices) -> tuple[pl.DataFrame, Path | None]:
    """A folder of images per class, as copies of FER2013 and others have them: train/happy/0001.jpg."""
    rows = []
    for folder in class_folders(root, numbers=True):
        split = SPLIT_WORDS.get(folder.parent.name.lower()) if folder.parent != root else None
        names = sorted(path.relative_to(root).as_posix() for path in folder.iterdir() if path.is_file())
        rows += [(name, split, folder.name) for name in names if not name.rpartition("/")[2].startswith(".")]
    notices["expressions are the names of folders"].append(os.fspath(root))
    columns = dict.fromkeys(("image", "split", "expression"), pl.String)
    return pl.DataFrame(rows, columns, orient="row"), root


def _affectnet(root: Path, notices: Notices) -> tuple[pl.DataFrame, Path | None]:
    """The arrays of AffectNet: annotations/<number>_exp.npy (and _val, _aro) of images/<number>.jpg, by split."""
    folders = sorted(folder for folder in (root / "annotations", *root.glob("*/annotations")) if folder.is_dir())
    files = [path for folder in folders for path in sorted(folder.glob("*_exp.npy"))]

    def read(path: Path) -> list[str | None]:
        stem, parent = path.name.removesuffix("_exp.npy"), path.parent.parent
        split = re.match("(train|val|test)", parent.name.lower()) if parent != root else None
        image = (parent / "images" / f"{stem}.jpg").relative_to(root).as_posix()
        row = [image, split[0] if split else None]
        for ending in ("exp", "val", "aro"):
            file = path.with_name(f"{stem}_{ending}.npy")
            try:
                row.append(str(np.load(file, allow_pickle=False).item()) if file.exists() else None)
            except ValueError as error:
                raise InputError(f"{file}: no array of one value ({error})") from None
        return row

    rows = list(prefetch(read, files, 2, 64))
    names = ("image", "split", "expression", "valence", "arousal")
    return pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row"), root


def _rafdb(root: Path, notices: Notices) -> tuple[pl.DataFrame, Path | None]:
    """The list of RAF-DB: lines of an image and its class; the aligned images where they are there."""
    path = root if root.is_file() else next(root.rglob("list_*tition_label.txt"))
    rows = []
    for number, line in _lines(path, notices):
        rows.append(line.split())
        if len(rows[-1]) != 2:
            raise InputError(f"{path}:{number}: {line!r} is no image and class; write train_00001.jpg 5")
    table = pl.DataFrame(rows, {"image": pl.String, "expression": pl.String}, orient="row")
    table = table.with_columns(split=pl.col("image").str.extract("^(train|test)_"))
    images = path.parent.parent / "Image"
    for folder, ending in (("aligned", "_aligned.jpg"), ("original", ".jpg")):
        if (images / folder).is_dir():
            return table.with_columns(pl.col("image").str.replace(r"\.jpg$", ending)), images / folder
    return table, None


def _disfa(root: Path, notices: Notices) -> tuple[pl.DataFrame, Path | None]:
    """The intensities of DISFA: SN001/SN001_au1.txt, lines of a frame and 0 to 5."""
    tables: dict[str, pl.DataFrame] = {}
    for path in sorted(root.rglob("*_au[0-9]*.txt")):
        video, _, unit = path.stem.rpartition("_au")
        pairs = []
        for number, line in _lines(path, notices):
            fields = re.split(r"[,;\s]+", line)
            try:
                pairs.append((int(fields[0]), float(fields[1])))
            except (ValueError, IndexError):
                if number > 1:  # a header
                    raise InputError(f"{path}:{number}: {line!r} is no frame and intensity; write 12,3") from None
        if not pairs:
            raise InputError(f"{path}: holds no lines of frame,intensity; copy it again")
        rows = pl.DataFrame(pairs, {"frame": pl.Int64, f"AU{unit}": pl.Float64}, orient="row")
        tables[video] = tables[video].join(rows, on="frame", how="full", coalesce=True) if video in tables else rows
    parts = [table.with_columns(video=pl.lit(video)) for video, table in sorted(tables.items())]
    table = pl.concat(parts, how="diagonal").sort("video", "frame")
    name = pl.format("{}/{}.jpg", "video", pl.col("frame").cast(pl.String).str.zfill(5))
    message = f"action units of DISFA are active from intensity {DISFA_THRESHOLD:g}; --au-threshold changes it"
    notices[message].append(os.fspath(root))
    return table.with_columns(image=name), None


def _lines(path: Path, notices: Notices) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers."""
    lines = decode_text(os.fspath(path), path.read_bytes(), notices).splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


DATA_SETS: dict[str, tuple[Callable[[Path, Notices], tuple[pl.DataFrame, Path | None]], tuple[str, ...]]] = {
    "affectnet": (_affectnet, ("annotations/*_exp.npy", "*/annotations/*_exp.npy")),
    "rafdb": (
        _rafdb,
        ("list_*tition_label.txt", "EmoLabel/list_*tition_label.txt", "*/EmoLabel/list_*tition_label.txt"),
    ),
    "disfa": (_disfa, ("SN*_au[0-9]*.txt", "SN*/SN*_au[0-9]*.txt", "*/SN*/SN*_au[0-9]*.txt")),
    "folders": (_folders, ()),
}
"""What `find_known` names -> its reader, and the files by which it is known. A reader returns a generic table, with the
data set's own classes, and the folder of its images, if it is there; an invalid file is an InputError."""
