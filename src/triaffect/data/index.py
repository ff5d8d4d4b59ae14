"""The index: one row per frame; missing labels are null."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from triaffect import __version__
from triaffect.data.cells import TABLE_SUFFIXES, Cells, read_cells, table_suffix
from triaffect.data.crops import FOLDER, find_images
from triaffect.data.known import CLASS_ORDERS, DATA_SETS, DISFA_THRESHOLD, class_folders, find_known
from triaffect.data.layout import FORMATS, SCHEMA, find_files, find_image_root, read_files
from triaffect.data.table import OUTSIDE_ROOT, table_to_index
from triaffect.io import InputError, Notices, StrPath, atomic_path
from triaffect.labels import EXPRESSIONS, SPLITS

HAS_CROP = pl.col("exists").fill_null(True)
"""Rows with a crop. A table that does not say is believed to have them all; missing images are reported later."""

PACKED = (".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst")
"""Endings of packed files that are not read."""

METADATA = "triaffect"
"""Key of the provenance, JSON, in a Parquet file's metadata."""


@dataclass
class Annotations:
    """Annotations that were read.

    Attributes:
        index: One row per frame, see `build_index`.
        images: The image root; None if no crop was found.
        format: What was read: `per-video`, `mtl`, `list` or `table`.
        notices: What was corrected or left out.
    """

    index: pl.DataFrame
    images: Path | None
    format: str
    notices: Notices

    def notice_lines(self) -> list[str]:
        """Return the notices, one line each."""
        lines = self.notices.lines()
        if self.images and self.index.height and not self.index["exists"].any():
            lines.append(f"{self.images} holds no crop of these videos; name the folder of <video>/00001.jpg")
        return lines


def build_index(root: StrPath, images: StrPath | None = None, *, format: str = "auto") -> pl.DataFrame:  # noqa: A002
    """Read annotations in any layout of the ABAW challenges, or a generic table, into one row per frame.

    The tasks are joined on split, video and frame; each keeps its length. Blank lines are not frames. A video that is
    in train for one task and in val for another has rows in both.

    Args:
        root: A folder (an edition's annotations, a task's or a split's folder), or one file: s-Aff-Wild2, a per-video
            file, a release list (split `test`, no labels), or a CSV or Parquet table (see `table.table_to_index`).
        images: The folder with the crops' folders, at any depth to three (`batch1/cropped_aligned/<video>`). By
            default `cropped_aligned` below `root`, or `root` itself.
        format: `per-video`, `mtl`, `list`, `table`, or `auto`, which takes the first of them that is present.

    Returns:
        The columns `labels.INDEX_COLUMNS`: `image` (String, relative to `images`), `video` (String), `frame` (Int32,
        from 1), `split` (String: train, val, test; null if unknown), `exists` (Boolean; null if there are no images
        to look at), `valence`, `arousal` (Float64, -1 to 1), `expression` (Int8, 0 to 7), `AU1` ... `AU26` (Int8, 0
        or 1); null is missing. Rows are ordered by split, video and frame, or, for s-Aff-Wild2 and lists, as in the
        file, duplicates included. A table's other columns follow.

    Raises:
        InputError: There are no annotations, or a file is invalid; names file, line, value and how to fix it.
    """
    return read_annotations(root, images, format).index


def read_annotations(
    root: StrPath, images: StrPath | None = None, layout: str = "auto", au_threshold: float | None = None
) -> Annotations:
    """Read annotations as `build_index` does, with the image root, the format and notices.

    Args:
        root: As for `build_index`.
        images: As for `build_index`.
        layout: `format` of `build_index`.
        au_threshold: Action units of this intensity (0 to 5) and above are active; only for tables and DISFA.
    """
    root, images = Path(root), Path(images) if images is not None else None
    if layout not in FORMATS:
        raise InputError(f"no format {layout!r}; there are {', '.join(FORMATS)}")
    if not root.exists():
        raise InputError(f"{root}: no such file or folder; name the annotations")
    if images and not images.is_dir():
        raise InputError(f"{images}: no such folder; name the one that holds the crops' folders")
    if root.suffix.lower() in PACKED:
        raise InputError(f"{root}: is packed; unpack it first (a table may stay packed as .csv.gz)")
    notices = Notices()
    try:
        if (table := _read_tables(root, images, layout, au_threshold, notices)) is not None:
            return table
        files = find_files(root, notices)
        formats = files.formats()
        if not formats and root.is_dir() and class_folders(root, numbers=True):
            names = ", ".join(CLASS_ORDERS)
            raise InputError(f"{root}: folders named by codes; name the data set with --format ({names})")
        if not formats or (layout != "auto" and layout not in formats):
            raise InputError(
                f"{root}: holds no annotations{f' of format {layout}' if layout != 'auto' else ''}; expected"
                " VA_Set/Train_Set/<video>.txt (or the folders of another edition),"
                " training_set_annotations.txt, a release list, AffectNet, RAF-DB, DISFA, or a table (.csv, .parquet)"
            )
        layout = formats[0] if layout == "auto" else layout
        if layout == "per-video" and files.rows:
            message = "MTL file not read, as there are per-video files: --format mtl reads it"
            notices[message] += map(os.fspath, files.rows.values())
        index, images = read_files(files, root, images, layout, notices)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path and its rights"
        raise InputError(f"{error.filename}: {reason}") from None
    return Annotations(index, images, layout, notices)


def save_index(
    index: pl.DataFrame,
    path: StrPath,
    *,
    root: StrPath,
    images: StrPath | None,
    format: str,  # noqa: A002
) -> None:
    """Write an index as Parquet, with its provenance in the metadata.

    Args:
        index: From `build_index`.
        path: The file to write, `.parquet`.
        root: Where the annotations are.
        images: The image root that `image` is relative to, if known.
        format: The layout that was read.
    """
    source = {"root": os.path.abspath(root), "images": os.path.abspath(images) if images else None, "format": format}
    write_parquet(index, path, source | {"version": __version__})


def write_parquet(table: pl.DataFrame, path: StrPath, source: Mapping[str, Any]) -> None:
    """Write a table with where it comes from, which `provenance` reads."""
    with atomic_path(path) as tmp_path:
        table.write_parquet(tmp_path, metadata={METADATA: json.dumps(dict(source))})


def save_subset(
    index: StrPath,
    out: StrPath,
    split: str | None = None,
    *,
    fraction: float = 1.0,
    by: Literal["frame", "video"] = "frame",
    seed: int = 0,
    stride: int = 1,
) -> pl.DataFrame:
    """Write a part of an index, which keeps its provenance and image root and knows of how many rows it is a part.

    Args:
        index: The index.
        out: The file to write, `.parquet`.
        split: Only this split.
        fraction: As for `subset`.
        by: As for `subset`.
        seed: As for `subset`.
        stride: As for `subset`.

    Returns:
        The rows written. Scores on the file say in their signature of how many rows they are a part.
    """
    rows = load_index(index, split)
    part = subset(rows, fraction, by, seed, stride)
    source = {"root": os.path.abspath(index), "images": None, "format": "table"} | provenance(index)
    write_parquet(part, out, source | {"part_of": rows.height})
    return part


def load_index(path: StrPath, split: str | None = None) -> pl.DataFrame:
    """Load an index file, or read a generic table, an annotation file or an annotation tree as one.

    Args:
        path: What `save_index` wrote, or anything that `build_index` reads.
        split: Return only the rows of `train`, `val` or `test`.

    Returns:
        As `build_index`.

    Raises:
        InputError: It cannot be read, an image leaves its root, or the split has no rows.
    """
    path = Path(path)
    index = _load_parquet(path) if path.suffix.lower() == ".parquet" and path.is_file() else _load_annotations(path)
    if split is None:
        return index
    rows = index.filter(pl.col("split") == split)
    if not rows.height:
        splits = ", ".join(name or "(no split)" for name in index["split"].unique(maintain_order=True))
        raise InputError(f"{path}: holds no frame of split {split!r}; it has {splits or 'no rows'}")
    return rows


def provenance(path: StrPath) -> dict[str, Any]:
    """Read where a Parquet file of this package comes from.

    Args:
        path: An index or a predictions file.

    Returns:
        Of an index: `root`, `images`, `format` and `version`; of predictions, what `save_predictions` was given. Empty
        for any other file.
    """
    try:
        return dict(json.loads(pl.read_parquet_metadata(Path(path)).get(METADATA, "{}")))
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return {}


def image_root(index: str | Path, images: str | Path | None) -> Path:
    """Return where the images are: the folder or packed file given, by default the folder of the index's provenance.

    Raises:
        InputError: Neither is known, or it does not exist.
    """
    root = images or provenance(index).get("images")
    if not root:
        raise InputError(f"{index}: does not say where its images are; name the folder with --images")
    if not (Path(root).is_dir() or (str(root).endswith(".safetensors") and Path(root).is_file())):
        raise InputError(f"{root}: no such folder of images; name it with --images")
    return Path(root)


def source_video(video: str) -> str:
    """Return the raw video of a video: without `_left` or `_right`, which mark its two persons.

    Also joins the pairs of which one half has no suffix: `10-60-1280x720` with `10-60-1280x720_right`, `video59` with
    `video59_right`, `video2` with `video2_left`.
    """
    return video.removesuffix("_left").removesuffix("_right")


def find_leaks(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Find source videos that two sets share: the same video, or the other person in it.

    Args:
        a: An index, or some of its rows.
        b: Another.

    Returns:
        `source`, `videos_a`, `videos_b` (lists of videos); empty if nothing leaks.
    """
    sides = []
    for rows, name in ((a, "videos_a"), (b, "videos_b")):
        videos = rows["video"].unique().drop_nulls()
        sources = pl.Series("source", [source_video(video) for video in videos], pl.String)
        sides.append(pl.DataFrame([sources, videos.alias(name)]).group_by("source").agg(pl.col(name).sort()))
    return sides[0].join(sides[1], on="source").sort("source")


def split_leaks(index: pl.DataFrame) -> list[dict[str, Any]]:
    """Find source videos that two splits of an index share.

    Returns:
        For each shared source video: `splits` (the two), `source`, `videos_a`, `videos_b`.
    """
    rows = {split: index.filter(pl.col("split") == split) for split in SPLITS}
    return [
        {"splits": [a, b], **leak}
        for a, b in combinations(SPLITS, 2)
        for leak in find_leaks(rows[a], rows[b]).iter_rows(named=True)
    ]


def subset(
    index: pl.DataFrame, fraction: float = 1.0, by: Literal["frame", "video"] = "frame", seed: int = 0, stride: int = 1
) -> pl.DataFrame:
    """Draw a random part of an index, of every n-th frame of each video.

    Args:
        index: The rows to draw from.
        fraction: Above 0, at most 1.
        by: Draw rows, or all rows of a video.
        seed: The same seed draws the same rows.
        stride: Keep every n-th row of each video before drawing.

    Returns:
        The drawn rows in the order of `index`; at least one row or video.

    Raises:
        InputError: `fraction`, `by` or `stride` is out of range.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} is not above 0 and at most 1")
    if stride < 1:
        raise InputError(f"stride {stride} is not 1 or more")
    if by not in ("frame", "video"):
        raise InputError(f"cannot draw by {by!r}; draw by frame or by video")
    index = index.filter(pl.int_range(pl.len()).over("video") % stride == 0) if stride > 1 else index
    units = index["video"].unique(maintain_order=True) if by == "video" else pl.Series(range(index.height))
    count = min(len(units), max(1, round(fraction * len(units))))
    drawn = units.gather(np.sort(np.random.default_rng(seed).choice(len(units), count, replace=False)))
    return index.filter(pl.col("video").is_in(drawn.implode())) if by == "video" else index[drawn.to_numpy()]


def keep_classes(index: pl.DataFrame, classes: int) -> pl.DataFrame:
    """Make the labels of expressions beyond the first `classes` missing: with 7, Other."""
    if classes == len(EXPRESSIONS):
        return index
    return index.with_columns(pl.when(pl.col("expression") < classes).then("expression").alias("expression"))


def _read_tables(
    root: Path, images: Path | None, layout: str, au_threshold: float | None, notices: Notices
) -> Annotations | None:
    """Read a table, a folder of tables, or a known data set; None if it is none of them."""
    name = layout if layout in (*CLASS_ORDERS, "disfa", "folders") else None
    data_set = find_known(root, numbers=name in CLASS_ORDERS) if layout == "auto" or name else None
    default: Path | None = None
    order = next((one for one in (data_set, name) if one in CLASS_ORDERS), None)
    if data_set is not None:
        read, _ = DATA_SETS[data_set]
        table, default = read(root, notices)
        tables: Iterable[Cells] = [Cells(os.fspath(root), table, notices)]
        au_threshold = DISFA_THRESHOLD if data_set == "disfa" and au_threshold is None else au_threshold
    else:
        paths = [root] if root.is_file() else sorted(path for path in root.iterdir() if is_table(path))
        if not paths or layout not in ("auto", "table", *CLASS_ORDERS) or not (name or all(map(is_table, paths))):
            return None
        if root.is_dir() and layout == "auto" and find_files(root, Notices()).formats():
            return None  # annotations of ABAW, with a table beside them
        tables = (read_cells(path, notices) for path in paths)
    indexes = [table_to_index(cells, images, order, au_threshold) for cells in tables]
    index = pl.concat(indexes, how="diagonal_relaxed")
    image_root = images or default or find_image_root(root, set(index["image"].str.extract(FOLDER).fill_null("")))
    with_images = find_images(index, image_root, notices, search=bool(images or default)) if image_root else index
    if not (images or default or with_images["exists"].any()):
        image_root, with_images = None, index
    return Annotations(with_images, image_root, data_set or name or "table", notices)


def is_table(path: Path) -> bool:
    """Whether a file is a table; s-Aff-Wild2 and submissions, whose headers do not fit their rows, are not.

    Of text without a table's ending, the header must name an image and a label.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.readline(4096).replace(b"\0", b"").replace(b" ", b"").lower()
    if table_suffix(path) not in TABLE_SUFFIXES:
        is_named = re.search(rb"(^|\W)(image|filename|file|path|img)\w*\W?[,;\t|]", header)
        if not is_named or not re.search(rb"[,;\t|]\W?(valence|arousal|expression|emotion|label|au0?1)", header):
            return False
    return not re.search(rb",aus\b|^(\xef\xbb\xbf)?image_location", header)


def _load_annotations(path: Path) -> pl.DataFrame:
    annotations = read_annotations(path)
    # What is assumed of a table is reported wherever it is read.
    if annotations.format not in ("per-video", "mtl", "list"):
        for line in annotations.notices.lines():
            warnings.warn(line, stacklevel=3)
    return annotations.index


def _load_parquet(path: Path) -> pl.DataFrame:
    try:
        index = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); index it again") from None
    if any(index.schema.get(name) != dtype for name, dtype in SCHEMA.items()):
        return _load_annotations(path)
    if index["image"].str.contains(OUTSIDE_ROOT).any():
        raise InputError(f"{path}: an image leaves the image root; use paths relative to it")
    return index
