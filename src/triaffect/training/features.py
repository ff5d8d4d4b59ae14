"""The backbone's features of many frames, computed once: a folder of float16 numbers and their images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triaffect.inference.predict import features, load_model
from triaffect.io import InputError, atomic_path, write_text
from triaffect.training.dataset import HAS_CROP

CHUNK = 4096
"""Images between two notes of how far the features are."""


def extract_features(
    model: str | Path,
    index: pl.DataFrame,
    images: str | Path,
    out: str | Path,
    *,
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Computes the backbone's features of every image of an index; a stopped call goes on where it was.

    Args:
        model: The folder of a run or a model.
        index: Rows with `image` and `exists`.
        images: The folder that the column `image` is relative to.
        out: The folder to make: `features.npy` (images, width), float16, NaN where an image cannot be read, and
            `images.parquet` with the column `image` in the same order.
        batch: Images a step.
        workers: Threads that decode.
        device: `auto`, `cpu`, `cuda` and the like.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds something else.
    """
    folder, network = Path(out), load_model(model)
    rows = index.filter(HAS_CROP).unique("image", keep="first", maintain_order=True)
    names = rows["image"]
    state = hashlib.sha256()
    for name, tensor in network.backbone.state_dict().items():
        state.update(name.encode() + tensor.cpu().numpy().tobytes())
    # Order of the frames included, so that rows and features cannot part.
    made = {"model": state.hexdigest(), "images": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    note, partial = folder / "state.json", folder / "features.partial.npy"
    known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"done": 0, **made}
    if {key: known[key] for key in made} != made or (not note.is_file() and folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: holds features of another model or index, or something else; name a new folder")
    if (folder / "features.npy").is_file() and known["done"] == len(names):
        return folder
    write_text(note, json.dumps(known))
    shape = (len(names), network.width)
    if not partial.is_file():
        known["done"] = 0
        with atomic_path(partial) as tmp_path:
            np.lib.format.open_memmap(tmp_path, "w+", np.float16, shape).flush()
    table = np.lib.format.open_memmap(partial, "r+")
    for start in range(known["done"], len(names), CHUNK):
        part = rows[start : start + CHUNK]
        found, values = features(network, part, images, batch=batch, workers=workers, device=device, progress=progress)
        places = {name: i for i, name in enumerate(part["image"], start)}
        table[start : start + len(part)] = np.nan
        table[[places[name] for name in found]] = values
        table.flush()
        known["done"] = start + len(part)
        write_text(note, json.dumps(known))
    with atomic_path(folder / "images.parquet") as tmp_path:
        rows.select("image").write_parquet(tmp_path)
    partial.replace(folder / "features.npy")
    return folder


def load_features(folder: str | Path) -> tuple[pl.Series, np.ndarray]:
    """What `extract_features` left.

    Returns:
        The images, and their features (images, width), float16, as a memory map.

    Raises:
        InputError: The folder is not whole.
    """
    try:
        values = np.load(Path(folder, "features.npy"), mmap_mode="r", allow_pickle=False)
        return pl.read_parquet(Path(folder, "images.parquet"))["image"], values
    except OSError:
        raise InputError(f"{folder}: holds no whole features; run triaffect features into it again") from None
