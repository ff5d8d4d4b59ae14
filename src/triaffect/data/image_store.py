"""The images of an index: a folder of files, or one packed file that a cluster copies and reads well.

A packed file is in the safetensors format (a JSON header, then plain arrays; no code in it): `bytes`, the files as they
were, one after the other; `offsets`, where each begins; `names`, the column `image`, one name per line. Any safetensors
reader opens it.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.table import OUTSIDE_ROOT
from triaffect.images import read_image, resize
from triaffect.io import InputError, atomic_path
from triaffect.jobs import prefetch
from triaffect.text import progress_bar

HEADER_SIZE = 1024
"""Bytes reserved for the header, which is known last and padded with spaces, as the format allows."""

ARRAYS = {"bytes": ("U8", 1), "offsets": ("I64", 8), "names": ("U8", 1)}
"""The arrays of a packed file, in their order: type, and bytes of a number."""

ImageReader = Callable[[int], bytes]
"""Row number -> the content of its image file; an OSError where there is none."""

_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)


def open_images(images: str | os.PathLike[str], names: pl.Series) -> ImageReader:
    """Open a folder or a packed file for the rows of an index.

    Args:
        images: The image root, or a file that `pack` wrote.
        names: The column `image`.

    Returns:
        A function that several threads may call.

    Raises:
        InputError: A name leaves the image root, or the file is not a packed file.
    """
    if (outside := names.filter(names.str.contains(OUTSIDE_ROOT))).len():
        raise InputError(f"{outside[0]!r}: leaves the image root; use a path relative to {images}")
    return _PackedFile(Path(images), names) if Path(images).is_file() else _folder_reader(os.fspath(images), names)


def _folder_reader(root: str, names: pl.Series) -> ImageReader:
    # One block of UTF-8, however many rows.
    paths = np.array(names.cast(pl.Binary).to_list(), np.bytes_) if names.len() else np.zeros(0, np.bytes_)

    def read(row: int) -> bytes:
        # A file object makes twice as many system calls, and each hands the interpreter to another thread and back.
        file = os.open(f"{root}/{paths[row].decode()}", _READ_ONLY)
        try:
            return _read_fully(os.fstat(file).st_size, lambda size, _: os.read(file, size))
        finally:
            os.close(file)

    return read


def _read_fully(length: int, read: Callable[[int, int], bytes]) -> bytes:
    """Call `read(size, position)` until `length` bytes are there: one call reads 2 GB at most."""
    data = b""
    while len(data) < length:
        part = read(length - len(data), len(data))
        if not part:
            raise OSError(errno.EIO, "ends before its length")
        data += part
    return data


class _PackedFile:
    def __init__(self, path: Path, names: pl.Series) -> None:
        self.path, self.file = path, os.open(path, _READ_ONLY)
        self.lock = threading.Lock()
        try:
            packed_names = self._read_header(os.fstat(self.file).st_size)
        except (ValueError, KeyError, TypeError, OSError):
            advice = "write it again with triaffect pack, or name a folder"
            raise InputError(f"{path}: not a whole packed file; {advice}") from None
        places = pl.DataFrame({"image": packed_names}).with_row_index("place")
        rows = names.to_frame("image").join(places, on="image", how="left", maintain_order="left")["place"]
        self.place = rows.cast(pl.Int64).fill_null(-1).to_numpy()

    def _read_header(self, size: int) -> list[str]:
        length = int.from_bytes(self._slice(0, 8), "little")
        if length > 1 << 20:
            raise ValueError("not a header of ours")
        header = json.loads(self._slice(8, 8 + length))
        spans = {name: [8 + length + offset for offset in header[name]["data_offsets"]] for name in ARRAYS}
        if any(not 0 <= start <= end <= size for start, end in spans.values()):
            raise ValueError("cut off")
        names = self._slice(*spans["names"]).decode().split("\n")
        self.offsets = np.frombuffer(self._slice(*spans["offsets"]), np.int64) + spans["bytes"][0]
        inside = self.offsets[0] >= spans["bytes"][0] and self.offsets[-1] <= spans["bytes"][1]
        if len(self.offsets) != len(names) + 1 or (np.diff(self.offsets) < 0).any() or not inside:
            raise ValueError("not offsets of ours")
        return names

    def _slice(self, start: int, end: int) -> bytes:
        return _read_fully(end - start, lambda size, position: self._read_at(size, start + position))

    def _read_at(self, size: int, position: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.file, size, position)
        with self.lock:  # Windows
            os.lseek(self.file, position, os.SEEK_SET)
            return os.read(self.file, size)

    def __call__(self, row: int) -> bytes:
        place = self.place[row]
        if place < 0:
            raise FileNotFoundError(errno.ENOENT, f"not in {self.path.name}")
        # The file is not mapped into memory: waiting for a page of it would hold up every thread.
        return self._slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Some images of an index, decoded and resized.

    Attributes:
        rows: (n,) row numbers.
        pixels: RGB, uint8 (n, size, size, 3).
        unreadable: Name and reason of each image that could not be read; it has no row.
        notices: Name and reason of each image that was read in part.
    """

    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    unreadable: list[tuple[str, str]]
    notices: list[tuple[str, str]]


def read_batches(
    images: str | os.PathLike[str], names: pl.Series, size: int, batch: int = 128, workers: int = 2
) -> Iterator[ImageBatch]:
    """Decode the images of an index in order, a few batches ahead.

    Args:
        images: The image root, or a file that `pack` wrote.
        names: The column `image`.
        size: Side of the images, in pixels.
        batch: Images per batch.
        workers: Decoding threads; 0 decodes in the calling thread.
    """
    read = open_images(images, names)

    def decode(start: int) -> ImageBatch:
        stop = min(start + batch, names.len())
        pixels = np.empty((stop - start, size, size, 3), np.uint8)
        rows: list[int] = []
        unreadable: list[tuple[str, str]] = []
        notices: list[tuple[str, str]] = []
        for row in range(start, stop):
            reasons: list[str] = []
            try:
                decode_into(read, row, pixels[len(rows)], reasons)
            except (OSError, ValueError) as error:
                unreadable.append((names[row], getattr(error, "strerror", None) or str(error)))
                continue
            rows.append(row)
            notices += [(names[row], reason) for reason in reasons]
        return ImageBatch(np.array(rows, np.int64), pixels[: len(rows)], unreadable, notices)

    yield from prefetch(decode, range(0, names.len(), batch), workers)


def decode_into(read: ImageReader, row: int, pixels: NDArray[np.uint8], notices: list[str] | None = None) -> None:
    """Decode the image of a row, resized to square `pixels` (size, size, 3); `notices` as for `read_image`.

    Raises:
        OSError: It cannot be read.
        ValueError: It cannot be decoded.
    """
    image = resize(read_image(read(row), pixels, notices=notices), len(pixels))
    if image is not pixels:
        pixels[:] = image


def pack(
    index: pl.DataFrame, images: str | os.PathLike[str], out: str | os.PathLike[str], progress: bool = True
) -> dict[str, Any]:
    """Write the images of an index into one file, each once, in the order of the index.

    Args:
        index: Rows with `image` and, if known, `exists`; rows without a crop are left out.
        images: The folder that the column `image` is relative to.
        out: The file, `.safetensors`. It can be named wherever a folder of images can.
        progress: Show a progress bar.

    Returns:
        `images`, how many; `bytes`, the size of the file; `skipped`, the names of those that cannot be read.

    Raises:
        InputError: None can be read, or a name contains a line break.
    """
    rows = index.filter(pl.col("exists").fill_null(True)) if "exists" in index.columns else index
    names = rows["image"].unique(maintain_order=True)
    if (broken := names.filter(names.str.contains("\n"))).len():
        raise InputError(f"{broken[0]!r}: contains a line break; rename the image")
    read = open_images(images, names)
    packed: list[str] = []
    skipped: list[str] = []
    sizes = [0]
    with atomic_path(out) as tmp_path, tmp_path.open("wb") as file:
        file.write(bytes(HEADER_SIZE))
        for row, name in enumerate(progress_bar(names, desc="pack", unit="image", disable=not progress)):
            try:
                data = read(row)
            except OSError:
                skipped.append(name)
                continue
            file.write(data)
            packed.append(name)
            sizes.append(len(data))
        if not packed:
            raise InputError(f"{images}: holds none of the index's {len(names):,} images; name their folder")
        offsets = np.cumsum(sizes, dtype=np.int64)
        padding = bytes(-int(offsets[-1]) % 8)  # the array of whole numbers starts at a multiple of eight
        lines = "\n".join(packed).encode()
        file.write(padding + offsets.tobytes() + lines)
        ends = np.cumsum([0, offsets[-1] + len(padding), offsets.nbytes, len(lines)]).tolist()
        header: dict[str, Any] = {"__metadata__": {"format": "triaffect pack", "images": str(len(packed))}}
        for i, (key, (kind, width)) in enumerate(ARRAYS.items()):
            header[key] = {"dtype": kind, "shape": [(ends[i + 1] - ends[i]) // width], "data_offsets": ends[i : i + 2]}
        file.seek(0)
        file.write((HEADER_SIZE - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER_SIZE - 8))
    return {"images": len(packed), "bytes": HEADER_SIZE + ends[-1], "skipped": skipped}
