"""Which crops lie on disk: every folder is listed once, no frame is looked up by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

FOLDER = r"^(.*)/[^/]*$"
"""The folder of an image; an image without one does not match."""

DEPTH = 3
"""How far below the image root a video's folder is looked for (`batch1/cropped_aligned/<video>`)."""


def find_places(root: Path, folders: Collection[str]) -> dict[str, list[str]]:
    """Finds the folders of crops below the image root, wherever they were unpacked.

    Args:
        root: The image root.
        folders: Videos, or the folders of images (`a/b` for `a/b/00001.jpg`, empty for the root itself).

    Returns:
        Folder -> its places relative to `root`: itself where it is there, or else all others, those in
        `cropped_aligned...` first, then others (`batch1`), `cropped` last. A folder that is nowhere is left out.
    """
    places = {folder: [folder] for folder in folders if (root / folder).is_dir()}
    by_name: dict[str, list[str]] = {}
    for folder in folders:
        if folder not in places:
            by_name.setdefault(folder.rpartition("/")[2], []).append(folder)
    for place in _folders(root, by_name) if by_name else ():
        for folder in by_name[place.rpartition("/")[2]]:
            if f"/{place}".endswith(f"/{folder}"):
                places.setdefault(folder, []).append(place)
    for found in places.values():
        found.sort(key=_preference)
    return places


def is_crop(name: str) -> bool:
    """Whether a file is named as a crop is: `00001.jpg`."""
    return name.endswith(".jpg") and name[:5].isdecimal()


def crop_numbers(folder: Path) -> NDArray[np.int32]:
    """Frame numbers of the crops `00001.jpg` in a folder, in no order; other files are passed over."""
    names = os.listdir(folder)
    text = "".join(names).encode("utf-8", "surrogateescape")
    if len(text) == 9 * len(names):
        grid = np.frombuffer(text, np.uint8).reshape(-1, 9)
        digits = grid[:, :5] - np.uint8(ord("0"))
        if (digits <= 9).all() and (grid[:, 5:] == np.frombuffer(b".jpg", np.uint8)).all():
            return digits.astype(np.int32) @ np.array([10000, 1000, 100, 10, 1], np.int32)
    held = set(names)
    stems = (name[:-4] for name in names if name.endswith(".jpg"))
    numbers = (int(stem) for stem in stems if stem.isascii() and stem.isdecimal() and len(stem) < 10)
    return np.array([number for number in numbers if f"{number:05d}.jpg" in held], np.int32)


def mark(rows: pl.DataFrame, root: Path) -> pl.DataFrame:
    """Sets `exists`, and moves `image` to where its folder was found below the image root.

    Args:
        rows: A table with the columns `image` and `exists`.
        root: The image root.
    """
    folder = pl.col("image").str.extract(FOLDER).fill_null("").alias("folder")
    folders = rows.select(folder.unique())["folder"].to_list()
    places = find_places(root, folders)
    # Where a folder is in several places, an image is where it is found, or else in the first of them.
    moved = {folder: found[0] for folder, found in places.items() if found[0] != folder}
    held = pl.concat(
        [_listing(root, folder, place) for folder, found in places.items() for place in found]
        or [pl.DataFrame(schema={"image": pl.String, "at": pl.String})]
    ).unique("image", keep="first", maintain_order=True)
    order = rows.columns
    rows = rows.join(held, on="image", how="left", maintain_order="left")
    first = pl.concat_str(folder.replace(moved), pl.lit("/"), pl.col("image").str.extract(r"([^/]*)$"))
    return rows.with_columns(
        pl.coalesce("at", pl.when(folder.is_in(list(moved))).then(first), "image").alias("image"),
        pl.col("at").is_not_null().alias("exists"),
    ).select(order)


def _listing(root: Path, folder: str, place: str) -> pl.DataFrame:
    """Images of a folder as annotations name them, and where they are."""
    names = pl.Series("name", [name for name in os.listdir(root / place) if _printable(name)], pl.String)
    prefixed = [
        pl.concat_str(pl.lit(f"{at}/" if at else ""), "name").alias(key)
        for key, at in (("image", folder), ("at", place))
    ]
    return names.to_frame().select(prefixed)


def _printable(name: str) -> bool:
    return name.isascii() or name.isprintable()  # a name that is not UTF-8 is no image of ours


def _folders(root: Path, wanted: Collection[str]) -> Iterator[str]:
    """Folders below `root` whose name is wanted, and, down to `DEPTH`, those below folders without crops."""
    waiting = [("", 0)]
    while waiting:
        place, depth = waiting.pop()
        inner: list[tuple[str, int]] = []
        with os.scandir(root / place) as entries:
            for entry in entries:
                if depth and is_crop(entry.name):
                    inner = []  # the crops of a video that nothing annotates
                    break
                if entry.is_dir() and not entry.name.startswith("."):
                    inner.append((f"{place}/{entry.name}".lstrip("/"), depth + 1))
        for at, below in inner:
            if at.rpartition("/")[2] in wanted:
                yield at
            elif below < DEPTH:
                waiting.append((at, below))


def _preference(place: str) -> tuple[bool, bool, str]:
    above = place.split("/")[:-1]
    return not any(p.startswith("cropped_aligned") for p in above), "cropped" in above, place
