"""The inputs of `analyze`: which files a user means, on disks or in object stores, and their pixels."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triaffect.images import is_image, read_image, require_regular_file
from triaffect.inference.frame import Frame, select_frames
from triaffect.io import InputError
from triaffect.jobs import read_ahead
from triaffect.text import plural

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif",
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".ogv",
)  # fmt: skip
"""What is taken from a folder without a look at its content, so that a damaged photo or video is reported by name."""

STORE = re.compile(r"(?!https?:|rt[a-z]+:|udp:|ftp:)[a-z][a-z0-9+.-]+://")
"""How an address in an object store begins (s3://, gs://, az:// and whatever else fsspec opens); those of streams and
web pages do not."""

MAX_BYTES = 64 * 2**30
"""Files in stores that are larger are not copied."""


@dataclass(frozen=True, slots=True)
class Input:
    """One photo, video, camera or sequence of photos.

    Attributes:
        source: Its path, the number of the camera, the paths of the photos, or an address in an object store.
        place: Path, without suffix, of its annotated copy and figure in the output folder.
        size: Bytes, of a file in a store.
        changed: What changes when a file in a store does.
    """

    source: Path | int | str | tuple[Path, ...]
    place: PurePath
    size: int = 0
    changed: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files; none of a camera or in a store."""
        if isinstance(self.source, tuple):
            return self.source
        return (self.source,) if isinstance(self.source, Path) else ()

    def state(self) -> tuple[int, str]:
        """Its bytes, and what changes when its files do; of a camera 0 and ""."""
        with contextlib.suppress(OSError, ValueError):
            stats = [path.stat() for path in self.paths]
            return sum(s.st_size for s in stats), str(max(s.st_mtime_ns for s in stats))
        return self.size, self.changed

    @property
    def name(self) -> str:
        """Value of the column `file`: always valid UTF-8. A sequence has the name of its folder."""
        path = self.source[0].parent if isinstance(self.source, tuple) else self.source
        text = f"camera {path}" if isinstance(path, int) else os.fspath(path)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass
class Collection:
    """What `collect` finds.

    Attributes:
        inputs: Each once, in the order given; those of a folder in natural order of their names.
        failures: One line for each input that matches nothing.
        notices: One line for each folder with files that are not read.
    """

    inputs: list[Input] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def natural_order(path: PurePath) -> list[str | int]:
    """Sort key by which `frame2.jpg` is before `frame10.jpg`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", os.fspath(path)))]


def collect(inputs: Iterable[str], exclude: Sequence[Path] = (), *, sequence: bool = False) -> Collection:
    """Find the files that are meant: files, folders with everything below them, globs, addresses of stores, cameras.

    Of a folder every photo and video is taken, as its content says; what else it holds is counted.

    Args:
        inputs: As a user writes them.
        exclude: Folders to leave out.
        sequence: The photos of each folder are one input, in natural order of their names.
    """
    result = Collection()
    photos: dict[Path, list[Path]] = {}
    sources: set[str] = set()
    places: set[PurePath] = set()

    def add(item: Input) -> None:
        # Equal names, and names too long to add to, must still make two files.
        stem = os.fsdecode(os.fsencode(item.place.stem)[:120])
        place, number = item.place.with_name(stem), 2
        while place in places:
            place, number = item.place.with_name(f"{stem}-{number}"), number + 1
        places.add(place)
        result.inputs.append(replace(item, place=place))

    for item in itertools.chain.from_iterable(_meant(text, exclude, result) for text in inputs):
        source = item.source
        key = os.path.realpath(source) if isinstance(source, Path) else str(source)
        if key in sources:
            continue
        sources.add(key)
        if sequence and isinstance(source, Path) and source.is_file() and is_image(source):
            photos.setdefault(source.parent, []).append(source)
        else:
            add(item)
    for folder, paths in photos.items():
        place = PurePath(f"{folder.absolute().name or 'photos'}.sequence")
        add(Input(tuple(sorted(paths, key=natural_order)), place))
    return result


def _meant(text: str, exclude: Sequence[Path], result: Collection) -> Iterator[Input]:
    """The inputs that one text means; failures and notices are added to `result`."""
    if STORE.match(text):
        stored = find_stored(text)
        if not stored:
            result.failures.append(f"{text}: no such file or folder")
        yield from stored
        return
    path = Path(text)
    matches = [path] if os.path.lexists(path) else sorted(map(Path, glob.glob(text, recursive=True)), key=natural_order)
    if not matches and text.isdecimal():
        yield Input(int(text), PurePath(f"camera{text}"))
    elif not matches:
        reason = "matches nothing" if glob.has_magic(text) else "no such file or folder"
        if re.match("[a-z]+://", text):
            reason = "an address, which is not read; save the stream as a file first"
        result.failures.append(f"{text}: {reason}")
    for path in matches:
        if not path.is_dir():
            yield Input(path, PurePath(path.name))
            continue
        left_out: Counter[str] = Counter()
        files = list(_files_below(path, {os.path.realpath(folder) for folder in exclude}, left_out))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common())
        if not files and len(matches) == 1:
            result.failures.append(f"{path}: holds no photo and no video" + (f" ({kinds})" if kinds else ""))
        elif kinds:
            count = plural(left_out.total(), "file")
            result.notices.append(f"{path}: {count} not read, neither photo nor video: {kinds}")
        yield from (Input(file, file.relative_to(path)) for file in files)


def _files_below(root: Path, visited: set[str], left_out: Counter[str]) -> Iterator[Path]:
    """Photos and videos below a folder; links are followed, but never into a folder twice.

    Other files are counted in `left_out` by their ending.
    """
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in visited:
            subfolders.clear()
            continue
        visited.add(os.path.realpath(folder))
        subfolders.sort(key=lambda name: natural_order(PurePath(name)))
        for path in sorted((Path(folder, name) for name in names), key=natural_order):
            if path.name.startswith("."):
                left_out["hidden"] += 1
            elif path.name.lower().endswith(SUFFIXES) or _is_media(path):
                yield path
            else:
                left_out[path.suffix.lower() or "without an ending"] += 1


def _is_media(path: Path) -> bool:
    from triaffect.inference.video import is_video

    try:
        return is_image(path) or is_video(path)
    except InputError:
        return os.path.isfile(path)  # its rights are reported by name


def find_stored(text: str) -> list[Input]:
    """Find what an address in an object store means: a file, everything below a folder, or a glob.

    Raises:
        InputError: fsspec, or its part for this store, is not installed, or the store cannot be read.
    """
    store, path = _open_store(text)
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
    return [
        Input(store.unstrip_protocol(name), PurePath(name).relative_to(root), int(info.get("size") or 0), _state(info))
        for name, info in sorted(entries.items())
        if info.get("type") != "directory"
    ]


def _state(info: dict[str, Any]) -> str:
    """What changes when a file in a store does."""
    keys = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
    return next((str(info[key]) for key in keys if info.get(key)), "")


def _open_store(address: str) -> tuple[Any, str]:
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
    store, path = _open_store(address)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        copy = Path(name, PurePath(path).name)
        try:
            store.get_file(path, str(copy))
        except Exception as error:  # each store has its own errors
            raise InputError(f"{address}: cannot be copied ({str(error).splitlines()[0][:160]})") from None
        yield copy


def read_photo(
    path: str | os.PathLike[str], *, strict: bool = False, notices: list[str] | None = None
) -> NDArray[np.uint8]:
    """Read a photo as RGB uint8 (height, width, 3).

    Args:
        path: A file.
        strict: Refuse a damaged photo that could be read in part.
        notices: Receives what a user should know, with the file's name; a warning by default.

    Raises:
        InputError: It cannot be read; the message names the file and the reason.
    """
    require_regular_file(path)
    reasons: list[str] = []
    try:
        pixels = read_image(path, strict=strict, notices=reasons)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    lines = [f"{path}: {reason}" for reason in reasons]
    if notices is None:
        for line in lines:
            warnings.warn(line, stacklevel=2)
    else:
        notices += lines
    return pixels


def open_input(
    item: Input,
    every: int = 1,
    fps: float | None = None,
    *,
    rate: float = 25,
    strict: bool = False,
    notices: list[str] | None = None,
) -> tuple[bool, Iterable[Frame]]:
    """Whether an input is a photo, and its frames, decoded ahead of their use.

    Args:
        item: From `collect`.
        every: As for `read_video`.
        fps: As for `read_video`.
        rate: Photos of a sequence per second.
        strict: Refuse damaged photos that could be read in part.
        notices: Receives what a user should know.

    Raises:
        InputError: It cannot be read; also while the frames are read.
    """
    notices = [] if notices is None else notices
    source = item.source
    if isinstance(source, Path) and is_image(source):
        return True, [Frame(0, 0.0, read_photo(source, strict=strict, notices=notices))]
    if isinstance(source, tuple):
        return False, read_ahead(_read_sequence(source, every, fps, rate, strict, notices))
    from triaffect.inference.video import read_camera, read_video  # FFmpeg is not loaded for photos

    if isinstance(source, int):
        return False, read_ahead(read_camera(source, every, fps))
    return False, read_ahead(read_video(Path(source), every, fps, notices))


def _read_sequence(
    paths: Sequence[Path], every: int, fps: float | None, rate: float, strict: bool, notices: list[str]
) -> Generator[Frame]:
    unreadable: list[str] = []
    timed = ((number / rate, path) for number, path in enumerate(paths))
    for number, seconds, path in select_frames(timed, every, fps):
        try:
            yield Frame(number, seconds, read_photo(path, strict=strict, notices=notices))
        except InputError as error:
            unreadable.append(str(error))
    if unreadable:
        raise InputError(f"{unreadable[0]} ({len(unreadable):,} of {plural(len(paths), 'photo')} cannot be read)")
