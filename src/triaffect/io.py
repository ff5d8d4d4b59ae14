"""Errors and notices for users, atomic writing, typed data from plain data, paths that stay inside their root."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sys
import typing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any

StrPath = str | os.PathLike[str]


class InputError(ValueError):
    """Invalid input; the message is one line that names the file, the line, the value and how to fix it.

    The command line prints it without a traceback and exits with code 2.
    """


class Notices(defaultdict[str, list[str]]):
    """What was corrected or left out while reading: message -> files or videos."""

    def __init__(self) -> None:
        super().__init__(list)

    def lines(self) -> list[str]:
        """Return one line per message, with the number of cases and the first three."""
        return [
            f"{message}: {', '.join(cases[:3])}{f' and {len(cases) - 3:,} more' if len(cases) > 3 else ''}"
            for message, cases in ((message, [*dict.fromkeys(cases)]) for message, cases in self.items())
        ]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which is renamed to `path` when the block succeeds.

    A block that raises (also on Ctrl-C) leaves `path` unchanged and removes the temporary file.

    Args:
        path: The file or folder to write; an existing one is replaced. Its folder is created if missing.
        folder: Where to put the temporary file, on the same file system; next to `path` by default.

    Raises:
        InputError: `path` is a folder and the block wrote a file, or its folder cannot be created.
    """
    target = Path(path)
    # The suffix stays last, for writers that choose a format by it.
    # Its name is of this process on this machine, since others may write the same file.
    name = f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}"
    tmp_path = (folder or target.parent) / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{target.parent}: cannot be used as a folder ({error.strerror}); name another one") from None
    try:
        yield tmp_path
        if tmp_path.is_file() and target.is_dir():
            raise InputError(f"{target}: is a folder; name a file")
        if tmp_path.is_dir() and target.is_dir():
            shutil.rmtree(target)
        tmp_path.replace(target)
    finally:
        if tmp_path.is_dir():
            shutil.rmtree(tmp_path)
        else:
            tmp_path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8, LF), or leave the existing one unchanged."""
    with atomic_path(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8", newline="\n")


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """Join a path from a data file to its root.

    Args:
        root: The folder that the path must not leave.
        relative: A path with forward slashes, as in the column `image`.

    Raises:
        InputError: `relative` is absolute or outside of `root` (so that a data file cannot name any other file).
    """
    if relative.startswith(("/", "\\")) or ".." in relative.replace("\\", "/").split("/") or ":" in relative[:3]:
        raise InputError(f"{relative!r}: leaves the image root; use a path relative to {os.fspath(root)}")
    return Path(root, relative)


def from_plain(kind: Any, data: Any) -> Any:
    """Read what `dataclasses.asdict` returned, also after JSON; unknown keys are ignored, missing ones get defaults.

    Args:
        kind: A dataclass, or the type of one of its fields: lists, tuples, dictionaries and `X | None` of such types.
        data: Plain data.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: from_plain(hints[f.name], data[f.name]) for f in fields(kind) if f.name in data})
    parts = [part for part in typing.get_args(kind) if part is not NoneType]
    if data is None or not parts:
        return data
    origin = typing.get_origin(kind)
    if origin is list:
        return [from_plain(parts[0], item) for item in data]
    if origin is dict:
        return {key: from_plain(parts[1], value) for key, value in data.items()}
    return tuple(data) if origin is tuple else from_plain(parts[0], data)


BASE = "triaffect-base"
"""The name of the bundled model."""


HUB = "hub:"
"""What the name of a model on the Hugging Face hub begins with, so that a missing folder is not looked for there."""


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise InputError(f"{HUB}{repository}: needs huggingface_hub: pip install 'triaffect[train]'") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "*.onnx"]))
    except (OSError, ValueError) as error:  # no network and no copy, no such repository, no such name
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{HUB}{repository}: cannot be fetched ({reason}); name a model folder instead") from None


def model_folder(model: str | os.PathLike[str]) -> Path:
    """Return the folder with `config.json` of a model.

    Args:
        model: `triaffect-base`, a run folder, a model folder, or `hub:USER/NAME`, which is downloaded once.

    Raises:
        InputError: There is no model there.
    """
    name = os.fspath(model)
    folder = Path(__file__).with_name("inference") / "base" if name == BASE else Path(model)
    if name.startswith(HUB):
        folder = _download(name.removeprefix(HUB))
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(f"{model}: holds no model (config.json); name {BASE}, a run folder or a model folder")


def model_hash(model: str | os.PathLike[str]) -> str:
    """SHA-256 of the weights of a model folder or of an exported file, with the config and graphs next to them.

    Raises:
        InputError: There is no model.
    """
    path = Path(model)
    files = [path] if path.is_file() else sorted(model_folder(model).iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in (".onnx", ".xml", ".bin", ".safetensors", ".json"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def exclusive(lock: Path, busy: str) -> Iterator[None]:
    """Keep a second process out; the lock ends with the process, however the process ends.

    Args:
        lock: The file to lock; it is created if missing.
        busy: The message for the second process.

    Raises:
        InputError: Another process has the lock.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise InputError(busy) from None  # else a file system without locks
        yield


def bundled_file(kind: str, name: str | os.PathLike[str]) -> Path:
    """Return the path of a YAML file: a path as it is, or the name of one that comes with the package.

    Args:
        kind: `configs` (one training run each) or `studies` (many runs each).
        name: A path, or a name without ending such as `ferplus`.

    Raises:
        InputError: There is neither such a file nor such a name.
    """
    if Path(name).is_file():
        return Path(name)
    for folder in _bundled_folders(kind):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise InputError(f"{name}: no such file; name a YAML file or one of {', '.join(bundled_names(kind))}")


def bundled_names(kind: str) -> list[str]:
    """Return the names that `bundled_file` knows, sorted."""
    return sorted({path.stem for folder in _bundled_folders(kind) for path in folder.glob("*.yaml")})


def _bundled_folders(kind: str) -> list[Path]:
    package = Path(__file__).parent
    return [package / kind, package.parents[1] / kind]  # installed, or in the source tree
