"""Files in object stores (s3://, gs://, az:// and whatever else fsspec opens): which there are, and a local copy."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from triaffect.io import InputError

MAX_BYTES = 64 * 2**30
"""Files that are larger are not copied."""


class StoredFile(NamedTuple):
    """A file in a store: its address, its path below the folder that was asked for, its size, its state."""

    address: str
    relative: PurePath
    size: int
    changed: str


def find_stored(text: str) -> list[StoredFile]:
    """Find what an address means: a file, everything below a folder, or a glob.

    Raises:
        InputError: fsspec, or its part for this store, is not installed, or the store cannot be read.
    """
    store, path = _open(text)
    try:
        if "*" in path:
            entries = store.glob(path, detail=True)
        elif store.isdir(path):
            entries = store.find(path, detail=True)
        else:
            entries = {path: store.info(path)}
    except FileNotFoundError:
        return []
    except Exception as error:  # each store has its own errors
        raise InputError(f"{text}: cannot be read ({str(error).splitlines()[0][:160]})") from None
    root = PurePath(path.split("*")[0].rpartition("/")[0] if "*" in path or path in entries else path)
    files = [(name, info) for name, info in sorted(entries.items()) if info.get("type") != "directory"]
    return [
        StoredFile(
            store.unstrip_protocol(name), PurePath(name).relative_to(root), int(info.get("size") or 0), _state(info)
        )
        for name, info in files
    ]


def _state(info: dict[str, Any]) -> str:
    """What changes when the file does."""
    keys = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
    return next((str(info[key]) for key in keys if info.get(key)), "")


def _open(address: str) -> tuple[Any, str]:
    try:
        import fsspec

        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{address}: {error}; pip install 'triaffect[cloud]' and the package of the store") from None
    except ValueError as error:
        raise InputError(f"{address}: {error}") from None


@contextlib.contextmanager
def local_copy(address: str, size: int, folder: Path) -> Iterator[Path]:
    """Copy a file from a store, as long as the block runs.

    Args:
        address: Of the file.
        size: Its size in bytes.
        folder: Where to put the copy.

    Raises:
        InputError: It is too large, or cannot be copied.
    """
    if size > MAX_BYTES:
        raise InputError(f"{address}: {size:,} bytes, more than {MAX_BYTES:,}")
    store, path = _open(address)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        copy = Path(name, PurePath(path).name)
        try:
            store.get_file(path, str(copy))
        except Exception as error:  # each store has its own errors
            raise InputError(f"{address}: cannot be copied ({str(error).splitlines()[0][:160]})") from None
        yield copy
