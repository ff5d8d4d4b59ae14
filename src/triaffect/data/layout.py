"""From a folder of annotations, as it was handed out, to the index table: find the layout, read it, join the tasks.

Where a folder holds both per-video files and an MTL file (ABAW3), the per-video files are read: the MTL file is a
selection from them. `--format mtl` reads the other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.crops import FOLDER, crop_numbers, find_places, is_crop, mark
from triaffect.data.formats import Kind, Notices, no_labels, read_list, read_rows, read_video, read_videos, sniff
from triaffect.io import InputError
from triaffect.labels import INDEX_COLUMNS, LABEL_COLUMNS, SPLITS, TASKS

FORMATS = ("auto", "per-video", "mtl", "list", "table")

TASK_FOLDERS = {
    "va_set": "va",
    "expr_set": "expr",
    "au_set": "au",
    "va_estimation_challenge": "va",
    "expr_classification_challenge": "expr",
    "expr_recognition_challenge": "expr",
    "au_detection_challenge": "au",
}
SPLIT_FOLDERS = {"train_set": "train", "training_set": "train", "validation_set": "val", "test_set": "test"}

SCHEMA = pl.Schema(
    dict.fromkeys(INDEX_COLUMNS, pl.Int8())
    | {"image": pl.String(), "video": pl.String(), "frame": pl.Int32(), "split": pl.String(), "exists": pl.Boolean()}
    | dict.fromkeys(LABEL_COLUMNS["va"], pl.Float64())
)
"""Columns and types of the index."""

_BLOCK = 1 << 16  # rows of a table


@dataclass
class Survey:
    """The annotation files below a folder, by what they are."""

    videos: dict[str | None, dict[str, dict[str, Path]]] = field(default_factory=dict)
    """Split -> video -> task -> file."""
    rows: dict[str | None, Path] = field(default_factory=dict)
    """Split -> s-Aff-Wild2 or MTL file."""
    lists: list[Path] = field(default_factory=list)
    """Release lists of images."""
    video_lists: list[Path] = field(default_factory=list)
    """Release lists of videos."""

    def format(self) -> str | None:
        """The format that `auto` reads."""
        found = {"per-video": self.videos, "mtl": self.rows, "list": self.lists or self.video_lists}
        return next((name for name, files in found.items() if files), None)


def survey(root: Path, notices: Notices) -> Survey:
    """Sorts the text files below a folder (or the one file) by what they are."""
    found, alone = Survey(), root.is_file()
    for path in [root] if alone else _texts(root):
        folders = [part.lower() for part in reversed(path.absolute().parent.parts)]
        task = next((TASK_FOLDERS[name] for name in folders if name in TASK_FOLDERS), None)
        split = next((SPLIT_FOLDERS[name] for name in folders if name in SPLIT_FOLDERS), None)
        kind = task if task and split in ("train", "val") else _kind(path)  # release lists lie in test folders
        named = split or next((s for s in SPLITS if s in path.stem.lower()), None)
        if kind in TASKS and (split or path.parent == root or alone):
            files = found.videos.setdefault(split, {}).setdefault(path.stem, {})
            _once(path, files.get(kind))
            files[kind] = path
        elif kind == "rows" and (named in ("train", "val") or alone):
            _once(path, found.rows.get(named))
            found.rows[named] = path
        elif kind == "list" or (kind == "rows" and named == "test"):
            found.lists.append(path)
        elif kind == "videos" and (named == "test" or alone):
            found.video_lists.append(path)
        else:
            notices.setdefault("no annotations of a known split: passed over", []).append(os.fspath(path))
    return found


def read_survey(
    found: Survey, root: Path, images: Path | None, layout: str, notices: Notices
) -> tuple[pl.DataFrame, Path | None]:
    """Reads what `survey` found.

    Args:
        found: The files.
        root: Where they were found; crops are looked for there where `images` is None.
        images: The image root.
        layout: `per-video`, `mtl` or `list`.
        notices: Gets what was met.

    Returns:
        The index, and the image root, None where no crop was found.
    """
    parts: list[pl.DataFrame] = []
    listed: list[pl.DataFrame] = []
    if layout == "mtl":
        for split in sorted(found.rows, key=_order):
            rows = read_rows(found.rows[split], notices)
            parts.append(rows.with_columns(pl.lit(split, pl.String).alias("split")))
    for path in found.lists:
        rows = read_list(path).with_columns(pl.lit("test").alias("split"))
        listed.append(rows.filter(~pl.col("image").is_in([i for t in listed for i in t["image"]])))
    framed = {video for table in listed for video in table["video"]}
    jobs = [] if layout == "mtl" else _jobs(found, framed, notices)

    videos = {video for _, video, _, _ in jobs}
    folders = videos.union(*(table["image"].str.extract(FOLDER) for table in parts + listed))
    images = images or own_images(root, folders)
    tables = [_per_video(jobs, images, notices)] if jobs else []
    if parts or listed:
        rows = pl.concat([pl.DataFrame(schema=SCHEMA), *parts, *listed], how="diagonal_relaxed")
        tables.append((mark(rows, images) if images else rows).select(INDEX_COLUMNS).cast(SCHEMA))
    return pl.concat([pl.DataFrame(schema=SCHEMA), *tables], rechunk=False), images


_Job = tuple[str | None, str, dict[str, Path], int | None]  # split, video, task -> file, frames where a list tells them


def _jobs(found: Survey, framed: set[str], notices: Notices) -> list[_Job]:
    """What to read, in order; a video of a test list that another lists frame by frame is left to that."""
    jobs: list[_Job] = []
    for split in sorted(found.videos, key=_order):
        jobs += [(split, video, files, 0) for video, files in sorted(found.videos[split].items())]
    listed: dict[str, int | None] = {}
    for path in found.video_lists:
        listed |= {video: count for video, count in read_videos(path).items() if count or video not in listed}
    jobs += [("test", video, {}, count) for video, count in listed.items() if video not in framed]
    splits: dict[str, set[str | None]] = {}
    for split, video, *_ in jobs:
        splits.setdefault(video, set()).add(split)
    for video, several in splits.items():
        if len(several) > 1:
            notices.setdefault("video in more than one split, by task", []).append(video)
    return jobs


def _per_video(jobs: Sequence[_Job], images: Path | None, notices: Notices) -> pl.DataFrame:
    """Reads the videos, and makes tables of some at a time: no column is ever held twice as a whole."""
    places = find_places(images, {video for _, video, _, _ in jobs}) if images else {}
    tables = [pl.DataFrame(schema=SCHEMA)]
    videos: list[_Video] = []

    def read(job: _Job) -> tuple[_Video, Notices]:
        met: Notices = {}
        return _read_job(job, places.get(job[1], []), images, met), met

    with ThreadPoolExecutor(2, "index") as pool:  # one waits for the disk while the other reads numbers
        for job, (video, met) in zip(jobs, pool.map(read, jobs), strict=True):
            videos.append(video)
            for message, cases in met.items():
                notices.setdefault(message, []).extend(cases)
            if sum(len(video.place) for video in videos) >= _BLOCK or job is jobs[-1]:
                tables.append(_table(videos))
                videos.clear()
    index = pl.concat(tables, rechunk=False)
    return index if images else index.with_columns(exists=pl.lit(None, pl.Boolean))


class _Video(NamedTuple):
    split: str | None
    name: str
    places: list[str]  # where its crops lie, or would
    place: NDArray[Any]  # (frames,) which of them; -1 where there is no crop
    labels: dict[str, NDArray[Any]]  # task -> (frames, columns)


def _read_job(job: _Job, homes: list[str], images: Path | None, notices: Notices) -> _Video:
    """Joins a video's tasks on the frame number, from 1 to the longest file's length."""
    split, name, files, count = job
    labels = {task: read_video(path, task, notices) for task, path in files.items()}
    crops = [crop_numbers(images / home) for home in homes] if images else []
    last = max((int(held.max()) for held in crops if len(held)), default=0)
    lengths = [len(values) for values in labels.values()]
    length = max(lengths, default=count or last)
    if len(set(lengths)) > 1:
        notices.setdefault("tasks differ in length", []).append(name)
    if last > length:
        notices.setdefault("more crops than lines", []).append(name)
    if not files and not length:
        notices.setdefault("video in a test list without crops or a number of frames: no rows", []).append(name)
    place = np.full(length + 1, -1, np.int32)
    for at, held in reversed(list(enumerate(crops))):
        place[held[held <= length]] = at
    for task in TASKS:
        given = labels.get(task, no_labels(0, task))
        labels[task] = np.concatenate([given, no_labels(length - len(given), task)])
    return _Video(split, name, homes or [name], place[1:], labels)


def _table(videos: list[_Video]) -> pl.DataFrame:
    lengths = [len(video.place) for video in videos]
    start = np.cumsum([0, *(len(video.places) for video in videos)])  # of each video in the list of all places
    at = [np.maximum(video.place, 0) + first for video, first in zip(videos, start[:-1], strict=True)]
    video = pl.Series(np.repeat(np.arange(len(videos)), lengths))
    names = pl.DataFrame([(v.split, v.name) for v in videos], {"split": pl.String, "video": pl.String}, orient="row")
    folders = pl.Series([place for v in videos for place in v.places]).gather(np.concatenate(at))
    columns: dict[str, Any] = {
        "frame": np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
        "exists": np.concatenate([v.place >= 0 for v in videos]),
        "video": names["video"].gather(video),
        "split": names["split"].gather(video),
    }
    for task in TASKS:
        whole = np.concatenate([v.labels[task] for v in videos])
        columns |= dict(zip(LABEL_COLUMNS[task], whole.T, strict=True))
    codes = pl.col(*LABEL_COLUMNS["expr"], *LABEL_COLUMNS["au"])
    number = pl.col("frame").cast(pl.String).str.zfill(5)
    table = pl.DataFrame(columns, nan_to_null=True).with_columns(
        pl.when(codes >= 0).then(codes).name.keep(), image=pl.concat_str(folders, pl.lit("/"), number, pl.lit(".jpg"))
    )
    return table.select(INDEX_COLUMNS).cast(SCHEMA)


def own_images(root: Path, folders: set[str]) -> Path | None:
    """The image root where none was named: where the annotations lie, if any of the crops' folders lies there too."""
    base = root if root.is_dir() else root.parent
    for images in (base / "cropped_aligned", base):
        if any((images / folder).is_dir() for folder in folders):
            return images
    return None


def _texts(folder: Path) -> Iterator[Path]:
    """Text files below a folder, in order; folders of crops are left at their first crop."""
    files: list[Path] = []
    inner: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_crop(entry.name):
                return
            if entry.is_dir() and not entry.name.startswith("."):
                inner.append(folder / entry.name)
            elif entry.name.lower().endswith(".txt") and not entry.name.startswith("."):
                if not entry.name.isprintable():
                    raise InputError(f"{entry.path!a}: the file's name is not UTF-8; rename it")
                files.append(folder / entry.name)
    yield from sorted(files)
    for below in sorted(inner):
        yield from _texts(below)


def _kind(path: Path) -> Kind | None:
    """What a file is by its content; a file with an official name is read as what it should be, to say what ails it."""
    name, kind = path.stem.lower(), sniff(path)
    if re.match("(train|training|val|validation)_set", name):
        return "rows"
    if name == "mtl" and kind != "rows":  # ABAW7's release list
        return "list"
    return "videos" if kind is None and "test_set_release" in name else kind


def _once(path: Path, other: Path | None) -> None:
    if other:
        raise InputError(f"{path}: {other} says the same split of the same task; name the folder of one edition")


def _order(split: str | None) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
