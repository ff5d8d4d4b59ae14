"""Where pictures' bytes come from: a folder of files, or one packed file that a cluster copies and reads well.

A packed file is in the safetensors format (a JSON header, then plain arrays; no code in it): `bytes`, the files one
after the other as they were; `offsets`, where each begins; `names`, the column `image`, a line each. Any safetensors
reader opens it. It is written beside its name and renamed when whole.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from triaffect.data.table import ESCAPES
from triaffect.io import InputError, atomic_path

HEADER = 1024
"""Bytes kept for the header, which is known last and padded with spaces, as the format allows."""

Reader = Callable[[int], bytes]
"""Row number -> the bytes of its picture; FileNotFoundError and other OSErrors where there are none."""


def reader(images: str | Path, names: pl.Series) -> Reader:
    """Opens a folder or a packed file for the rows of an index; several threads may call what it returns.

    Args:
        images: The image root, or what `pack` wrote.
        names: The column `image`.

    Raises:
        InputError: A name leaves the image root, or the file is no packed file.
    """
    if (climbing := names.filter(names.str.contains(ESCAPES))).len():
        raise InputError(f"{climbing[0]!r}: leaves the image root; use a path relative to {images}")
    return _Packed(Path(images), names) if Path(images).is_file() else _loose(str(images), names)


def _loose(root: str, names: pl.Series) -> Reader:
    paths = names.to_numpy().astype(np.bytes_)  # one block, however many rows

    def read(row: int) -> bytes:
        # A file object asks the system twice as often, and each time the interpreter goes to another thread and back.
        file = os.open(f"{root}/{paths[row].decode()}", os.O_RDONLY)
        try:
            return _read(file, 0, os.fstat(file).st_size)
        finally:
            os.close(file)

    return read


def _read(file: int, start: int, end: int) -> bytes:
    found = b""
    while len(found) < end - start:  # one call reads 2 GB at most
        more = os.pread(file, end - start - len(found), start + len(found))
        if not more:
            raise OSError(errno.EIO, "ends before its length")
        found += more
    return found


class _Packed:
    def __init__(self, path: Path, names: pl.Series) -> None:
        self.path, self.file = path, os.open(path, os.O_RDONLY)
        try:
            held = self._open(os.fstat(self.file).st_size)
        except (ValueError, KeyError, TypeError, OSError):
            raise InputError(
                f"{path}: is no whole packed file; write it again with triaffect pack, or name a folder"
            ) from None
        places = pl.DataFrame({"image": held}).with_row_index("place")
        at = names.to_frame("image").join(places, on="image", how="left", maintain_order="left")["place"]
        self.place = at.cast(pl.Int64).fill_null(-1).to_numpy()

    def _open(self, size: int) -> list[str]:
        length = int.from_bytes(os.pread(self.file, 8, 0), "little")
        if length > 1 << 20:
            raise ValueError("no header of ours")
        header = json.loads(os.pread(self.file, length, 8))
        spans = {
            name: [8 + length + at for at in header[name]["data_offsets"]] for name in ("bytes", "offsets", "names")
        }
        if any(not 0 <= start <= end <= size for start, end in spans.values()):
            raise ValueError("cut off")
        held = self._slice(*spans["names"]).decode().split("\n")
        self.offsets = np.frombuffer(self._slice(*spans["offsets"]), np.int64) + spans["bytes"][0]
        inside = self.offsets[0] >= spans["bytes"][0] and self.offsets[-1] <= spans["bytes"][1]
        if len(self.offsets) != len(held) + 1 or (np.diff(self.offsets) < 0).any() or not inside:
            raise ValueError("no offsets of ours")
        return held

    def _slice(self, start: int, end: int) -> bytes:
        return _read(self.file, start, end)

    def __call__(self, row: int) -> bytes:
        place = self.place[row]
        if place < 0:
            raise FileNotFoundError(2, f"not in {self.path.name}")
        # No map of the file into memory: waiting for a page of it would hold up every thread.
        return self._slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)


def pack(index: pl.DataFrame, images: str | Path, out: str | Path, progress: bool = True) -> dict[str, Any]:
    """Writes the pictures of an index into one file, each once, in the order of the index.

    Args:
        index: Rows with `image` and, where known, `exists`; rows without a crop are left out.
        images: The folder that the column `image` is relative to.
        out: The file, `.safetensors`; it takes the place of the folder wherever images are named.
        progress: Show a progress bar.

    Returns:
        `images`, how many; `bytes`, of the file; `skipped`, the names of those that cannot be read.

    Raises:
        InputError: None can be read, or a name has a line break in it.
    """
    rows = index.filter(pl.col("exists").fill_null(True)) if "exists" in index.columns else index
    names = rows["image"].unique(maintain_order=True)
    if (broken := names.filter(names.str.contains("\n"))).len():
        raise InputError(f"{broken[0]!r}: has a line break in it; rename the picture")
    read, kept, skipped, sizes = reader(images, names), [], [], [0]
    with atomic_path(out) as tmp_path, tmp_path.open("wb") as file:
        file.write(bytes(HEADER))
        for row, name in enumerate(tqdm(names, desc="pack", unit="image", disable=not progress)):
            try:
                data = read(row)
            except OSError:
                skipped.append(name)
                continue
            file.write(data)
            kept.append(name)
            sizes.append(len(data))
        if not kept:
            raise InputError(f"{images}: holds none of the index's {len(names):,} images; name their folder")
        offsets = np.cumsum(sizes, dtype=np.int64)
        padding = bytes(-int(offsets[-1]) % 8)  # so that the whole numbers begin at one of eight
        last = "\n".join(kept).encode()
        file.write(padding + offsets.tobytes() + last)
        ends = np.cumsum([0, offsets[-1] + len(padding), offsets.nbytes, len(last)]).tolist()
        header: dict[str, Any] = {"__metadata__": {"format": "triaffect pack", "images": str(len(kept))}}
        for i, (key, kind, width) in enumerate((("bytes", "U8", 1), ("offsets", "I64", 8), ("names", "U8", 1))):
            header[key] = {"dtype": kind, "shape": [(ends[i + 1] - ends[i]) // width], "data_offsets": ends[i : i + 2]}
        file.seek(0)
        file.write((HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER - 8))
    return {"images": len(kept), "bytes": HEADER + ends[-1], "skipped": skipped}
