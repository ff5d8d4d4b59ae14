"""The backbone's features of many images, computed once: a folder of float16 numbers and the images' names."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from triaffect.data.image_store import read_batches
from triaffect.data.index import HAS_CROP
from triaffect.io import InputError, atomic_path, write_text
from triaffect.training.model import AffectModel, load_model
from triaffect.training.run_folder import precision

CHUNK = 4096
"""Images between two records of the progress."""


@torch.inference_mode()
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
) -> Path:
    """Compute the backbone's features of every image of an index; a stopped call continues where it was.

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
    state_file, partial = folder / "state.json", folder / "features.partial.npy"
    state: dict[str, Any] = {"done": 0, **identity}
    if state_file.is_file():
        state = json.loads(state_file.read_text(encoding="utf-8"))
    foreign = not state_file.is_file() and folder.is_dir() and any(folder.iterdir())
    if foreign or {key: state[key] for key in identity} != identity:
        raise InputError(f"{folder}: holds features of another model or index, or something else; name a new folder")
    if (folder / "features.npy").is_file() and state["done"] == len(names):
        return folder
    write_text(state_file, json.dumps(state))
    if not partial.is_file():
        state["done"] = 0
        with atomic_path(partial) as tmp_path:
            np.lib.format.open_memmap(tmp_path, "w+", np.float16, (len(names), network.width)).flush()
    table = np.lib.format.open_memmap(partial, "r+")
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    network.eval().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bfloat16 = precision("auto", place.type) == "bf16-mixed"
    unreadable: list[tuple[str, str]] = []
    with (
        tqdm(total=len(names), initial=state["done"], desc="features", unit="image", disable=not progress) as bar,
        torch.autocast(place.type, torch.bfloat16, enabled=bfloat16),
    ):
        for start in range(state["done"], len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            table[start : start + len(chunk)] = np.nan
            for part in read_batches(images, chunk, network.size, batch, workers if len(chunk) > batch else 0):
                if len(part.rows):
                    pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2).to(place, non_blocking=True)
                    table[start + part.rows] = network.features(pixels).float().half().cpu().numpy()
                unreadable += part.unreadable
                bar.update(len(part.rows) + len(part.unreadable))
            table.flush()
            state["done"] = start + len(chunk)
            write_text(state_file, json.dumps(state))
    if unreadable:
        examples = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:3])
        warnings.warn(f"skipped {len(unreadable)} images that cannot be read ({examples})", stacklevel=2)
    with atomic_path(folder / "images.parquet") as tmp_path:
        rows.select("image").write_parquet(tmp_path)
    partial.replace(folder / "features.npy")
    return folder


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
