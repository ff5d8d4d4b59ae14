"""From a folder of annotations to the index: find the layout, read its files, join the tasks.

If a folder contains both per-video files and an MTL file (ABAW3), the per-video files are read: the MTL file is a
selection from them. `--format mtl` reads the MTL file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.abaw_text import Kind, detect_kind, missing_to_null, read_list, read_rows, read_video, read_videos
from triaffect.data.crops import FOLDER, find_folders, find_images, list_crops, list_folder
from triaffect.io import InputError, Notices
from triaffect.jobs import prefetch
from triaffect.labels import INDEX_COLUMNS, KEY_COLUMNS, LABEL_COLUMNS, SPLITS, TASKS

FORMATS = ("auto", "per-video", "mtl", "list", "table", "affectnet", "rafdb", "fer2013", "disfa", "folders")

TASK_FOLDERS = {
    "va_set": "va", "va_estimation_challenge": "va", "au_set": "au", "au_detection_challenge": "au",
    "expr_set": "expr", "expr_classification_challenge": "expr", "expr_recognition_challenge": "expr",
}  # fmt: skip
SPLIT_FOLDERS = {"train_set": "train", "training_set": "train", "validation_set": "val", "test_set": "test"}

SPLIT_ORDER = (*SPLITS, None)
"""The order of rows; annotations of an unknown split come last."""

SCHEMA = pl.Schema(
    dict.fromkeys(INDEX_COLUMNS, pl.Int8())
    | {"image": pl.String(), "video": pl.String(), "frame": pl.Int32(), "split": pl.String(), "exists": pl.Boolean()}
    | dict.fromkeys(LABEL_COLUMNS["va"], pl.Float64())
)
"""Columns and types of the index."""

Keys = dict[str, NDArray[Any]]

BLOCK = 1 << 16
"""Rows of videos that are put into the index at once: small tables are slow, and large ones need twice the memory."""


@dataclass
class AnnotationFiles:
    """The annotation files below a folder, by kind."""

    videos: dict[tuple[str | None, str], dict[str, Path]] = field(default_factory=dict)
    """Split and video -> task -> file."""
    rows: dict[str | None, Path] = field(default_factory=dict)
    """Split -> s-Aff-Wild2 or MTL file."""
    lists: list[Path] = field(default_factory=list)
    """Release lists of images."""
    video_lists: list[Path] = field(default_factory=list)
    """Release lists of videos."""

    def formats(self) -> list[str]:
        """Return the formats that are present; `auto` reads the first."""
        present = (
            ("per-video", self.videos),
            ("mtl", self.rows),
            ("list", self.lists or self.video_lists),
            ("per-video", self.video_lists),
        )
        return [name for name, files in present if files]


class Video(NamedTuple):
    """What is known of a video before its files are read."""

    split: str | None
    name: str
    files: dict[str, Path]
    """Task -> file."""
    frames: int | None = None
    """Number of frames, from a release list."""


def find_files(root: Path, notices: Notices) -> AnnotationFiles:
    """Sort the text files below a folder (or the one file) by what they contain."""
    result, is_file = AnnotationFiles(), root.is_file()
    for path in [root] if is_file else _text_files(root):
        folders = [part.lower() for part in reversed(path.absolute().parent.parts)]
        task = next((TASK_FOLDERS[name] for name in folders if name in TASK_FOLDERS), None)
        split = next((SPLIT_FOLDERS[name] for name in folders if name in SPLIT_FOLDERS), None)
        kind = task if task and split in ("train", "val") else _kind(path)  # test folders contain release lists
        named_split = split or next((s for s in SPLITS if s in path.stem.lower()), None)
        if kind in TASKS and (split or path.parent == root or is_file):
            _add(result.videos.setdefault((split, path.stem), {}), kind, path)
        elif kind == "rows" and (named_split in ("train", "val") or is_file):
            _add(result.rows, named_split, path)
        elif kind == "list" or (kind == "rows" and named_split == "test"):
            result.lists.append(path)
        elif kind == "videos" and (named_split == "test" or is_file):
            result.video_lists.append(path)
        else:
            notices["no annotations of a known split: passed over"].append(os.fspath(path))
    return result


def read_files(
    files: AnnotationFiles, root: Path, images: Path | None, layout: str, notices: Notices
) -> tuple[pl.DataFrame, Path | None]:
    """Read annotation files into an index.

    Args:
        files: From `find_files`.
        root: Their folder; crops are searched for there if `images` is None.
        images: The image root.
        layout: `per-video`, `mtl` or `list`.
        notices: Receives what was corrected or left out.

    Returns:
        The index, and the image root (None if no crop was found).
    """
    rows = [pl.DataFrame(schema=SCHEMA)]
    if layout == "mtl":
        rows += [
            read_rows(files.rows[split], notices).with_columns(split=pl.lit(split, pl.String))
            for split in sorted(files.rows, key=SPLIT_ORDER.index)
        ]
    in_lists = pl.DataFrame(schema={"image": pl.String, "video": pl.String})
    for path in files.lists:
        test_rows = read_list(path).join(in_lists, on="image", how="anti", maintain_order="left")
        in_lists = pl.concat([in_lists, test_rows.select("image", "video")])
        rows.append(test_rows.with_columns(split=pl.lit("test")))
    listed = pl.concat(rows, how="diagonal_relaxed")
    videos = [] if layout == "mtl" else _videos(files, set(in_lists["video"]), notices)

    folders = {video.name for video in videos} | set(listed["image"].str.extract(FOLDER))
    images = images or find_image_root(root, folders)
    tables = _read_videos(videos, images, notices)
    if listed.height:
        tables.append((find_images(listed, images, notices) if images else listed).select(INDEX_COLUMNS).cast(SCHEMA))
    return pl.concat(tables or [listed], rechunk=False), images


def _videos(files: AnnotationFiles, in_lists: set[str], notices: Notices) -> list[Video]:
    """List what to read, in order; videos of a test list whose frames another one lists are left out."""
    in_order = sorted(files.videos, key=lambda video: (SPLIT_ORDER.index(video[0]), video[1]))
    videos = [Video(split, name, files.videos[split, name]) for split, name in in_order]
    test: dict[str, int | None] = {}
    for path in files.video_lists:
        test |= {name: count for name, count in read_videos(path).items() if count or name not in test}
    videos += [Video("test", name, {}, count) for name, count in test.items() if name not in in_lists]
    splits: dict[str, set[str | None]] = {}
    for video in videos:
        splits.setdefault(video.name, set()).add(video.split)
    if several := [name for name, of_video in splits.items() if len(of_video) > 1]:
        notices["video in more than one split, by task"] += several
    return videos


def _read_videos(videos: list[Video], images: Path | None, notices: Notices) -> list[pl.DataFrame]:
    locations = find_folders(images, {video.name for video in videos}) if images else {}
    folders = [locations.get(video.name, [video.name]) for video in videos]
    first_folder = np.cumsum([0, *map(len, folders)])
    suffixes = [".jpg"] * int(first_folder[-1])

    def read(i: int) -> tuple[list[pl.DataFrame], Notices]:
        of_video = Notices()
        keys, labels, endings = _read_video(videos[i], folders[i], images, of_video)
        suffixes[first_folder[i] : first_folder[i + 1]] = endings
        keys |= {"folder": keys["folder"] + first_folder[i], "video": np.full_like(keys["frame"], i)}
        by_task = [pl.DataFrame(keys), *labels]
        # Cut wherever a task ends: the later parts lack its columns, which are null when all parts are joined.
        spans = pairwise([0, *sorted({table.height for table in by_task})])
        parts = ([table[start:end] for table in by_task if table.height >= end] for start, end in spans)
        return [pl.concat(part, how="horizontal") for part in parts], of_video

    # Every number is formatted once, not once per video.
    numbers = pl.int_range(pl.col("frame").max().fill_null(0) + 1).cast(pl.String).str.zfill(5)
    columns = {
        "video": _gather((video.name for video in videos), "video"),
        "split": _gather((video.split for video in videos), "video"),
    } | ({} if images else {"exists": pl.lit(None, pl.Boolean)})
    tables, block = [], [pl.DataFrame(schema=SCHEMA).drop(KEY_COLUMNS)]
    for i, (parts, of_video) in enumerate(prefetch(read, range(len(videos)), 2, 64)):  # one waits for the disk
        block += parts
        for message, cases in of_video.items():
            notices[message] += cases
        if sum(part.height for part in block) >= BLOCK or i == len(videos) - 1:
            folder = _gather((f"{name}/" for name in chain(*folders)), "folder")
            image = pl.concat_str(folder, numbers.gather(pl.col("frame")), _gather(suffixes, "folder"))
            rows = missing_to_null(pl.concat(block, how="diagonal", rechunk=True))
            tables.append(rows.with_columns(image=image, **columns).select(INDEX_COLUMNS).cast(SCHEMA))
            del block[1:]
    return tables


def _gather(values: Iterable[str | None], column: str) -> pl.Expr:
    """Return the values at the positions in a column."""
    return pl.lit(pl.Series(list(values), dtype=pl.String)).gather(pl.col(column))


def _read_video(
    video: Video, folders: list[str], images: Path | None, notices: Notices
) -> tuple[Keys, list[pl.DataFrame], list[str]]:
    """Read a video's labels and crops, for frames from 1 to the length of the longest file.

    Returns:
        `frame`, `folder` (the position in `folders` of the frame's crop) and `exists`; the labels of each task; the
        ending of the crops in each folder.
    """
    labels = [read_video(path, task, notices) for task, path in video.files.items()]
    crops = [list_crops(images / folder) for folder in folders] if images else []
    last = max((int(numbers.max()) for _, numbers in crops if len(numbers)), default=0)
    length = max((table.height for table in labels), default=video.frames or last)
    if len({table.height for table in labels}) > 1:
        notices["tasks differ in length"].append(video.name)
    if last > length:
        notices["more crops than lines"].append(video.name)
    if not video.files and not length:
        notices["video in a test list without crops or a number of frames: no rows"].append(video.name)
    folder = np.full(length + 1, -1, np.int32)
    for i, (_, numbers) in reversed(list(enumerate(crops))):
        folder[numbers[numbers <= length]] = i
    frame = np.arange(1, length + 1, dtype=np.int32)
    keys = {"frame": frame, "folder": folder[1:].clip(0), "exists": folder[1:] >= 0}
    return keys, labels, [suffix for suffix, _ in crops] or [".jpg"] * len(folders)


def find_image_root(root: Path, folders: set[str]) -> Path | None:
    """Return the image root next to the annotations, if it contains any of these folders of crops."""
    base = root if root.is_dir() else root.parent
    for images in (base / "cropped_aligned", base):
        if any((images / folder).is_dir() for folder in folders):
            return images
    return None


def _text_files(folder: Path) -> Iterator[Path]:
    """Yield the text files below a folder, in order; a folder of crops is left at its first crop."""
    folders, files = list_folder(folder)
    for name in sorted(files):
        if name.lower().endswith(".txt"):
            if not name.isprintable():
                raise InputError(f"{os.path.join(folder, name)!a}: the file's name is not UTF-8; rename it")
            yield folder / name
    for name in sorted(folders):
        yield from _text_files(folder / name)


def _kind(path: Path) -> Kind | None:
    """Return what a file contains; one with an official name is read as such, so that errors say what is wrong."""
    name, kind = path.stem.lower(), detect_kind(path)
    if re.match("(train|training|val|validation)_set", name):
        return "rows"
    if name == "mtl" and kind != "rows":  # the release list of ABAW7
        return "list"
    return "videos" if kind is None and "test_set_release" in name else kind


def _add(files: dict[Any, Path], key: str | None, path: Path) -> None:
    if key in files:
        raise InputError(f"{path}: {files[key]} has the same split of the same task; name the folder of one edition")
    files[key] = path
