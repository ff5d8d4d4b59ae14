"""Which crops exist on disk: every folder is listed once, no file is looked up by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.io import Notices

FOLDER = r"^(.*)/[^/]*$"
"""Matches the folder of an image; an image at the root does not match."""

CROP_SUFFIXES = (".jpg", ".png", ".jpeg")
"""Endings of crops; all crops of a folder have the same."""

_ENDING = r"(?i)\.(jpe?g|png|bmp|webp|tiff?|avif|heic)$"

DEPTH = 3
"""How far below the image root a video's folder is searched for (`batch1/cropped_aligned/<video>`)."""


def find_folders(root: Path, folders: Collection[str]) -> dict[str, list[str]]:
    """Find the folders of crops below the image root, wherever they were unpacked.

    Args:
        root: The image root.
        folders: Videos, or the folders of images (`a/b` for `a/b/00001.jpg`, empty for the root itself).

    Returns:
        Folder -> its locations relative to `root`: the folder itself if it exists, otherwise all others, those in
        `cropped_aligned...` first, then others (`batch1`), `cropped` last. A folder without a location is left out.
    """
    locations = {folder: [folder] for folder in folders if (root / folder).is_dir()}
    by_name: dict[str, list[str]] = {}
    for folder in folders:
        if folder not in locations:
            by_name.setdefault(folder.rpartition("/")[2], []).append(folder)
    for location in _search(root, by_name) if by_name else ():
        for folder in by_name[location.rpartition("/")[2]]:
            if f"/{location}".endswith(f"/{folder}"):
                locations.setdefault(folder, []).append(location)
    return {folder: sorted(paths, key=_preference) for folder, paths in locations.items()}


def is_crop(name: str) -> bool:
    """Whether a file has the name of a crop: `00001.jpg`, or with another ending of `CROP_SUFFIXES`."""
    return name.endswith(CROP_SUFFIXES) and name[:5].isdecimal()


def list_folder(folder: Path, may_hold_crops: bool = False) -> tuple[list[str], list[str]]:
    """List the folders and the files in a folder, without hidden ones.

    Args:
        folder: The folder.
        may_hold_crops: A folder of crops is listed, too; otherwise it is left at its first crop, as if empty.
    """
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_crop(entry.name) and not may_hold_crops:
                return [], []
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).append(entry.name)
    return folders, files


def list_crops(folder: Path) -> tuple[str, NDArray[np.int32]]:
    """List the crops `00001.jpg` in a folder; other files are ignored.

    Returns:
        Their ending, which is that of the first (`.jpg` if there is none), and their frame numbers, in no order.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    suffix = next((os.path.splitext(name)[1] for name in names if is_crop(name)), ".jpg")
    text = "".join(names).encode("utf-8", "surrogateescape")
    width = 5 + len(suffix)
    if len(text) == width * len(names):
        grid = np.frombuffer(text, np.uint8).reshape(-1, width)
        digits = grid[:, :5] - np.uint8(ord("0"))
        if (digits <= 9).all() and (grid[:, 5:] == np.frombuffer(suffix.encode(), np.uint8)).all():
            return suffix, digits.astype(np.int32) @ np.array([10000, 1000, 100, 10, 1], np.int32)
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix) and name.isascii())
    numbers = ((stem, int(stem)) for stem in stems if stem.isdecimal() and len(stem) < 10)
    return suffix, np.array([number for stem, number in numbers if stem == f"{number:05d}"], np.int32)


def find_images(
    rows: pl.DataFrame, root: Path, notices: Notices | None = None, *, search: bool = False
) -> pl.DataFrame:
    """Set `exists`, and change `image` to where it is below the image root.

    An image that is not there by its name is the one file of its folder with another ending (`.png` for `.jpg`).

    Args:
        rows: A table with the columns `image` and `exists`.
        root: The image root.
        notices: Receives how many images have another name.
        search: Look in all folders below the root for images that are named without a folder.
    """
    folder = pl.col("image").str.extract(FOLDER).fill_null("")
    folders = rows.select(folder.unique())["image"].to_list()
    locations = find_folders(root, folders)
    # An image whose folder has several locations gets the one that contains it, otherwise the first.
    moved = {folder: paths[0] for folder, paths in locations.items() if paths[0] != folder}
    files = [pl.DataFrame(schema={"image": pl.String, "location": pl.String})]
    for name, paths in locations.items():
        for path in paths:
            # A name that is not UTF-8 cannot be in a table.
            names = pl.Series([n for n in os.listdir(root / path) if n.isascii() or n.isprintable()], dtype=pl.String)
            files.append(pl.DataFrame({"image": _join(name, names), "location": _join(path, names)}))
    existing = pl.concat(files).unique("image", keep="first", maintain_order=True)
    expected = pl.concat_str(folder.replace(moved), pl.lit("/"), pl.col("image").str.extract(r"([^/]*)$"))
    images = rows.select("image").join(existing, on="image", how="left", maintain_order="left")
    if images["location"].has_nulls():
        if search and "" in folders:
            below = (Path(parent, name).relative_to(root) for parent, _, names in os.walk(root) for name in names)
            inner = [(path.name, path.as_posix()) for path in below if len(path.parts) > 1 and str(path).isprintable()]
            existing = existing.vstack(pl.DataFrame(inner, existing.schema, orient="row"))
        stem = pl.col("image").str.replace(_ENDING, "").alias("stem")
        others = existing.filter(pl.col("image").str.contains(_ENDING)).select(stem, other="location")
        images = images.with_columns(stem).join(
            others.unique("stem", keep="none"), on="stem", how="left", maintain_order="left"
        )
        count = images.filter(pl.col("location").is_null() & pl.col("other").is_not_null()).height
        if count and notices is not None:
            notices["images found under another ending or in another folder"].append(f"{count:,} of {rows.height:,}")
        images = images.with_columns(pl.coalesce("location", "other"))
    image = pl.coalesce("location", pl.when(folder.is_in(list(moved))).then(expected), "image")
    return rows.with_columns(images.select(image.alias("image"), pl.col("location").is_not_null().alias("exists")))


def _join(folder: str, names: pl.Series) -> pl.Series:
    return f"{folder}/" + names if folder else names


def _search(root: Path, names: Collection[str]) -> Iterator[str]:
    """Yield the folders below `root` with these names; folders of crops are not searched."""
    queue = [("", 0)]
    while queue:
        path, depth = queue.pop()
        inner, _ = list_folder(root / path, may_hold_crops=depth == 0)
        for name in inner:
            folder = f"{path}/{name}".lstrip("/")
            if name in names:
                yield folder
            elif depth + 1 < DEPTH:
                queue.append((folder, depth + 1))


def _preference(path: str) -> tuple[bool, bool, str]:
    parents = path.split("/")[:-1]
    return not any(name.startswith("cropped_aligned") for name in parents), "cropped" in parents, path
