"""The backbone's features of many images, computed once: a folder of float16 numbers and the images' names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from triaffect.data.image_store import read_batches
from triaffect.data.index import HAS_CROP
from triaffect.io import InputError, atomic_path, write_text
from triaffect.jobs import PerProcess, run_all
from triaffect.text import progress_bar
from triaffect.training.model import AffectModel, load_model
from triaffect.training.run_folder import precision

CHUNK = 4096
"""Images in a part, which is what a process computes at a time."""


def extract_features(
    model: AffectModel | str | Path,
    index: pl.DataFrame,
    images: str | os.PathLike[str],
    out: str | Path,
    *,
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    progress: bool = True,
    jobs: int = 1,
    ray: str | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Path:
    """Compute the backbone's features of every image of an index; a stopped call continues where it was.

    Parts of the images are written one by one to `parts/`, by any number of calls with the same folder; the call that
    finds them all joins them.

    Args:
        model: A model, or the folder of a run or a model.
        index: Rows with `image` and `exists`.
        images: The folder that the column `image` is relative to, or a packed file.
        out: The folder to make: `features.npy` (images, width), float16, NaN where an image cannot be read, and
            `images.parquet` with the column `image` in the same order.
        batch: Images per step.
        workers: Decoding threads.
        device: `auto`, `cpu`, `cuda` and the like.
        progress: Show a progress bar.
        jobs: Number of processes that share the images.
        ray: Address of a Ray cluster to use instead, see `jobs.run_all`.
        shard: `(i, n)` leaves all parts but the i-th of every n to other calls.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds something else.
    """
    folder, network = Path(out), model if isinstance(model, AffectModel) else load_model(model)
    rows = index.filter(HAS_CROP).unique("image", keep="first", maintain_order=True)
    names = rows["image"]
    backbone_hash = hashlib.sha256()
    for name, tensor in network.backbone.state_dict().items():
        backbone_hash.update(name.encode() + tensor.cpu().numpy().tobytes())
    # The order of the images is part of it: rows and features must not be mixed up.
    identity = {"model": backbone_hash.hexdigest(), "images": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    state_file, parts = folder / "state.json", folder / "parts"
    state = json.loads(state_file.read_text(encoding="utf-8")) if state_file.is_file() else None
    foreign = state is None and folder.is_dir() and any(folder.iterdir())
    if foreign or (state is not None and {key: state.get(key) for key in identity} != identity):
        raise InputError(f"{folder}: holds features of another model or index, or something else; name a new folder")
    if (folder / "features.npy").is_file() and (folder / "images.parquet").is_file():
        return folder
    write_text(state_file, json.dumps(identity))
    files = {start: parts / f"{start:09d}.npy" for start in range(0, len(names), CHUNK)}
    shared = PerProcess(partial(_open, model, device), _open(network, device))
    own = list(files)[shard[0] - 1 :: shard[1]]
    todo = [(start, names[start : start + CHUNK]) for start in own if not files[start].is_file()]
    call = partial(_extract, shared, os.fspath(images), batch, workers)
    unreadable: list[tuple[str, str]] = []
    total = sum(len(names[start : start + CHUNK]) for start in own)
    initial = total - sum(len(chunk) for _, chunk in todo)
    with progress_bar(total=total, initial=initial, desc="features", unit="image", disable=not progress) as bar:
        for outcome in run_all(call, todo, jobs, None if device == "cpu" else (), ray=ray):
            if outcome.result is None:
                raise outcome.error or RuntimeError
            start, chunk = outcome.item
            with atomic_path(files[start]) as tmp_path, tmp_path.open("wb") as file:
                np.save(file, outcome.result[0])
            unreadable += outcome.result[1]
            bar.update(len(chunk))
    if unreadable:
        examples = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:3])
        warnings.warn(f"skipped {len(unreadable)} images that cannot be read ({examples})", stacklevel=2)
    if all(file.is_file() for file in files.values()):
        _join(folder, rows, files, network.width)
    return folder


def _join(folder: Path, rows: pl.DataFrame, files: Mapping[int, Path], width: int) -> None:
    """Write `features.npy` and `images.parquet` from the parts, then remove these."""
    with atomic_path(folder / "features.npy") as tmp_path:
        table = np.lib.format.open_memmap(tmp_path, "w+", np.float16, (len(rows), width))
        for start, file in files.items():
            part = np.load(file, allow_pickle=False)
            table[start : start + len(part)] = part
        table.flush()
    with atomic_path(folder / "images.parquet") as tmp_path:
        rows.select("image").write_parquet(tmp_path)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _open(model: AffectModel | str | Path, device: str) -> AffectModel:
    network = model if isinstance(model, AffectModel) else load_model(model)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return network.eval().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.inference_mode()
def _extract(
    shared: PerProcess[AffectModel], images: str, batch: int, workers: int, chunk: tuple[int, pl.Series]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Features (N, width) of a part of the images, NaN where one cannot be read, and the names of those."""
    network, names = shared.get(), chunk[1]
    place, unreadable = next(network.parameters()).device, list[tuple[str, str]]()
    values = np.full((len(names), network.width), np.nan, np.float16)
    with torch.autocast(place.type, torch.bfloat16, enabled=precision("auto", place.type) == "bf16-mixed"):
        for part in read_batches(images, names, network.size, batch, workers if len(names) > batch else 0):
            if len(part.rows):
                pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2).to(place, non_blocking=True)
                values[part.rows] = network.features(pixels).float().half().cpu().numpy()
            unreadable += part.unreadable
    return values, unreadable


def load_features(folder: str | Path) -> tuple[pl.Series, np.ndarray]:
    """Open what `extract_features` wrote.

    Returns:
        The column `image`, and the features (images, width), float16, as a memory map.

    Raises:
        InputError: The folder is incomplete.
    """
    try:
        values = np.load(Path(folder, "features.npy"), mmap_mode="r", allow_pickle=False)
        return pl.read_parquet(Path(folder, "images.parquet"))["image"], values
    except OSError:
        raise InputError(f"{folder}: holds no complete features; run triaffect features into it again") from None
