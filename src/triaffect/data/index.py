"""The index: one row a frame, missing labels null, and what may be asked of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from triaffect import __version__
from triaffect.data.crops import FOLDER, mark
from triaffect.data.formats import Notices
from triaffect.data.layout import FORMATS, SCHEMA, own_images, read_survey, survey
from triaffect.data.lines import StrPath
from triaffect.data.table import OUTSIDE_ROOT, read_table
from triaffect.io import InputError, atomic_path
from triaffect.labels import SPLITS

METADATA = "triaffect"
"""Key of the provenance, JSON, in a Parquet file's metadata."""


@dataclass
class Reading:
    """An index as it was read, and what there is to know about it."""

    index: pl.DataFrame
    images: Path | None
    """The image root; None where no crop was found."""
    format: str
    """What was read: `per-video`, `mtl`, `list` or `table`."""
    notices: Notices
    """What was mended or is odd: message -> files or videos."""

    def notice_lines(self) -> list[str]:
        """The notices, one line each, with the number of cases and the first of them."""
        lines = []
        for message, cases in self.notices.items():
            more = f" and {len(cases) - 3:,} more" if len(cases) > 3 else ""
            lines.append(f"{message}: {', '.join(cases[:3])}{more}")
        if self.images and self.index.height and not self.index["exists"].any():
            lines.append(f"{self.images} holds no crop of these videos; name the folder of <video>/00001.jpg")
        return lines


def build_index(root: StrPath, images: StrPath | None = None, *, format: str = "auto") -> pl.DataFrame:  # noqa: A002
    """Reads annotations in any layout of the ABAW challenges, or a generic table, into one row a frame.

    The tasks are joined on split, video and frame; each keeps its own length. Blank lines are no frames. A video that
    one task has in train and another in val has rows in both.

    Args:
        root: A folder (an edition's annotations, a task's or a split's folder), or one file: s-Aff-Wild2, a per-video
            file, a release list (split `test`, no labels), or a CSV or Parquet table (see `table.read_table`).
        images: The folder that holds the crops' folders, at any depth to three (`batch1/cropped_aligned/<video>`).
            Left out: `cropped_aligned` below `root`, or `root` itself.
        format: `per-video`, `mtl`, `list`, `table`, or `auto`, which takes the first of them that is there.

    Returns:
        The columns `labels.INDEX_COLUMNS`: `image` (String, relative to `images`), `video` (String), `frame` (Int32,
        from 1), `split` (String: train, val, test; null where nothing tells), `exists` (Boolean; null where there are
        no images to look at), `valence`, `arousal` (Float64, -1 to 1), `expression` (Int8, 0 to 7), `AU1` ... `AU26`
        (Int8, 0 or 1); null is missing. Rows stand by split, video and frame, or, for s-Aff-Wild2 and lists, in the
        order of the file, duplicates kept. A table's other columns follow.

    Raises:
        InputError: Nothing is found, or something in a file is illegal; names file, line, value and the mend.
    """
    return read_annotations(root, images, format).index


def read_annotations(root: StrPath, images: StrPath | None = None, layout: str = "auto") -> Reading:
    """Does `build_index`'s work and tells what it met.

    Args:
        root: As for `build_index`.
        images: As for `build_index`.
        layout: Its `format`.
    """
    root, images = Path(root), Path(images) if images is not None else None
    if layout not in FORMATS:
        raise InputError(f"no format {layout!r}; there are {', '.join(FORMATS)}")
    if not root.exists():
        raise InputError(f"{root}: no such file or folder; name the annotations")
    if images and not images.is_dir():
        raise InputError(f"{images}: no such folder; name the one that holds the crops' folders")
    notices: Notices = {}
    try:
        if layout == "table" or (layout == "auto" and _is_table(root)):
            index, layout = read_table(root), "table"
            crops_root = images or own_images(root, set(index["image"].str.extract(FOLDER).fill_null("")))
            marked = mark(index, crops_root) if crops_root else index
            if images or marked["exists"].any():
                index, images = marked, crops_root
        else:
            found = survey(root, notices)
            chosen = found.format() if layout == "auto" else layout
            present = {"per-video": found.videos or found.video_lists, "mtl": found.rows, "list": found.lists}
            if not chosen or not (present[chosen] or chosen == found.format()):
                raise InputError(
                    f"{root}: holds no annotations{f' of format {layout}' if chosen else ''}; expected"
                    " VA_Set/Train_Set/<video>.txt (or the folders of another edition),"
                    " training_set_annotations.txt, a release list, or a .csv or .parquet table"
                )
            if chosen == "per-video" and found.rows:
                unread = [os.fspath(path) for path in found.rows.values()]
                notices["MTL file not read beside the per-video files: --format mtl reads it"] = unread
            layout = chosen
            index, images = read_survey(found, root, images, layout, notices)
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check the path and its rights"
        ) from None
    return Reading(index, images, layout, notices)


def save_index(
    index: pl.DataFrame,
    path: StrPath,
    *,
    root: StrPath,
    images: StrPath | None,
    format: str,  # noqa: A002
) -> None:
    """Writes an index as Parquet, with its provenance in the metadata.

    Args:
        index: From `build_index`.
        path: The file to write, `.parquet`.
        root: Where the annotations came from.
        images: The image root that `image` is relative to, if known.
        format: The layout that was read.
    """
    known = {"root": os.path.abspath(root), "images": os.path.abspath(images) if images else None, "format": format}
    with atomic_path(path) as tmp_path:
        index.write_parquet(tmp_path, metadata={METADATA: json.dumps(known | {"version": __version__})})


def load_index(path: StrPath, split: str | None = None) -> pl.DataFrame:
    """Loads an index file; or reads a generic table, an annotation file or an annotation tree as one.

    Args:
        path: What `save_index` wrote, or anything that `build_index` reads.
        split: Only the rows of `train`, `val` or `test`.

    Returns:
        As `build_index`.

    Raises:
        InputError: It cannot be read, an image leaves its root, or there is no row of the split.
    """
    path = Path(path)
    index = _load_parquet(path) if path.suffix.lower() == ".parquet" and path.is_file() else build_index(path)
    if split is None:
        return index
    rows = index.filter(pl.col("split") == split)
    if not rows.height:
        held = ", ".join(s or "(none told)" for s in index["split"].unique(maintain_order=True))
        raise InputError(f"{path}: holds no frame of split {split!r}; it has {held or 'no rows'}")
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
    """Where the images are: the folder (or packed file) given, else the folder that the index was made with.

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
    """The raw video of a video: without `_left` or `_right`, which mark the two persons in it.

    Also joins the pairs of which one half has no suffix: `10-60-1280x720` with `10-60-1280x720_right`, `video59` with
    `video59_right`, `video2` with `video2_left`.
    """
    return video.removesuffix("_left").removesuffix("_right")


def find_leaks(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Finds source videos that stand on both sides: the same video, or the other person of it.

    Args:
        a: An index, or some of its rows.
        b: Another.

    Returns:
        `source`, `videos_a`, `videos_b` (lists of videos); empty where nothing leaks.
    """
    sides = []
    for side, name in ((a, "videos_a"), (b, "videos_b")):
        videos = side["video"].unique().drop_nulls()
        sources = pl.Series("source", [source_video(video) for video in videos], pl.String)
        sides.append(pl.DataFrame([sources, videos.alias(name)]).group_by("source").agg(pl.col(name).sort()))
    return sides[0].join(sides[1], on="source").sort("source")


def split_leaks(index: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """`find_leaks` between the splits of one index: pair of splits -> what they share, where they share anything."""
    rows = {split: index.filter(pl.col("split") == split) for split in SPLITS}
    pairs = {(x, y): find_leaks(rows[x], rows[y]) for x, y in combinations(SPLITS, 2)}
    return {pair: leaks for pair, leaks in pairs.items() if leaks.height}


def subset(
    index: pl.DataFrame, fraction: float, by: Literal["frame", "video"] = "frame", seed: int = 0
) -> pl.DataFrame:
    """Draws a random part of an index.

    Args:
        index: The rows to draw from.
        fraction: Above 0, to 1.
        by: Draw rows, or whole videos.
        seed: The same seed draws the same.

    Returns:
        The drawn rows in the order of `index`; at least one row or video.

    Raises:
        InputError: `fraction` or `by` is out of range.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} is not above 0 and at most 1")
    if by not in ("frame", "video"):
        raise InputError(f"cannot draw by {by!r}; draw by frame or by video")
    units = index["video"].unique(maintain_order=True) if by == "video" else pl.Series(range(index.height))
    count = min(len(units), max(1, round(fraction * len(units))))
    drawn = units.gather(np.sort(np.random.default_rng(seed).choice(len(units), count, replace=False)))
    return index.filter(pl.col("video").is_in(drawn.implode())) if by == "video" else index[drawn.to_numpy()]


def _is_table(root: Path) -> bool:
    if not root.is_file() or root.suffix.lower() not in (".csv", ".parquet"):
        return False
    with root.open("rb") as file:
        return b",aus" not in file.readline(4096).replace(b" ", b"").lower()  # s-Aff-Wild2's five names for 16 fields


def _load_parquet(path: Path) -> pl.DataFrame:
    try:
        index = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); index it again") from None
    if any(index.schema.get(name) != dtype for name, dtype in SCHEMA.items()):
        return read_annotations(path).index
    if index["image"].str.contains(OUTSIDE_ROOT).any():
        raise InputError(f"{path}: an image leaves the image root; use paths relative to it")
    return index
