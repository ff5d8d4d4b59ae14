"""Predict every image of an index: one loop for torch, ONNX Runtime, OpenVINO and the peers, still or temporal."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from triaffect.data.image_store import ImageBatch, read_batches
from triaffect.data.predictions import fill_nearest
from triaffect.data.windows import windows
from triaffect.inference.backends import Backend, TemporalModel, open_backend
from triaffect.inference.peers import is_peer, open_peer
from triaffect.labels import PREDICTION_COLUMNS

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

WINDOW = 512
"""Frames of a video that a temporal model sees at once, their neighbours not counted."""


def predict(
    model: AffectModel | Backend | str | Path,
    index: pl.DataFrame,
    images: str | os.PathLike[str],
    *,
    fill: Literal["none", "nearest"] = "none",
    batch: int = 128,
    workers: int = 2,
    backend: str = "auto",
    device: str = "auto",
    half: bool = True,
    progress: bool = True,
) -> pl.DataFrame:
    """Predict every image of an index once.

    Args:
        model: A model, the folder of a run or a model, `triaffect-base`, an exported file, a peer such as `fer`, or a
            backend that is already open.
        index: Rows with `image`; `exists` if known; `video` and `frame` for temporal models and to fill frames.
        images: The folder that the column `image` is relative to, or a packed file.
        fill: `nearest` repeats the nearest predicted frame of the video where there is no crop (the mean of all
            predictions if the whole video has none), and marks it in the column `filled`.
        batch: Images per step.
        workers: Decoding threads.
        backend: As in `open_backend`.
        device: Device of torch, as in `open_backend`.
        half: With torch, compute in bfloat16 where the device does.
        progress: Show a progress bar.

    Returns:
        `image` and the columns of the model's tasks (Float32), in the order of the index. Images that cannot be read,
        or in which a peer finds no face, are missing.

    Raises:
        InputError: The model cannot be opened, an image's name leaves its root, or there is nothing to fill from.
    """
    if isinstance(model, str) and is_peer(model):
        opened: Backend = open_peer(model)
    elif isinstance(model, Backend):
        opened = model
    else:
        opened = open_backend(model, backend, device=device, half=half)
    unique = index.unique("image", keep="first", maintain_order=True)
    rows = unique.filter(pl.col("exists").fill_null(True)) if "exists" in unique.columns else unique
    batches = _with_progress(
        read_batches(images, rows["image"], opened.size, batch, workers if len(rows) > batch else 0),
        len(rows),
        f"predict, {opened.name}" if progress else None,
    )
    temporal: TemporalModel | None = getattr(opened, "temporal", None)
    places, values = _temporal(opened, temporal, batches, rows) if temporal else _still(opened, batches)
    columns = [column for task in opened.tasks for column in PREDICTION_COLUMNS[task]]
    table = pl.DataFrame({"image": rows["image"][places], **dict(zip(columns, values.T, strict=True))})
    table = table.filter(~pl.any_horizontal(pl.col(columns).is_nan()))
    return fill_nearest(table, unique) if fill == "nearest" else table


def _with_progress(batches: Iterator[ImageBatch], total: int, title: str | None) -> Iterator[ImageBatch]:
    """Pass batches on; images that cannot be read are reported once, together."""
    unreadable: list[tuple[str, str]] = []
    with tqdm(total=total, desc=title, unit="image", disable=title is None) as bar:
        for batch in batches:
            unreadable += batch.unreadable
            if len(batch.rows):
                yield batch
            bar.update(len(batch.rows) + len(batch.unreadable))
    if unreadable:
        examples = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:3])
        warnings.warn(f"skipped {len(unreadable)} images that cannot be read ({examples})", stacklevel=3)


def _still(backend: Backend, batches: Iterator[ImageBatch]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row numbers, and the predictions (N, columns) of all tasks."""
    places, parts = [], []
    for batch in batches:
        outputs = backend(batch.pixels)
        places.append(batch.rows)
        parts.append(np.concatenate([outputs[task] for task in backend.tasks], 1))
    return _joined(places, parts, backend)


def _temporal(
    backend: Backend, temporal: TemporalModel, batches: Iterator[ImageBatch], rows: pl.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same for a model that sees the frames of a video together."""
    batch_rows, batch_features = [], []
    for batch in batches:
        batch_rows.append(batch.rows)
        batch_features.append(temporal.features(batch.pixels))
    if not batch_rows:
        return _joined([], [], backend)
    places, features = np.concatenate(batch_rows), np.concatenate(batch_features)
    frames = rows[places].select(
        pl.col("video").fill_null("").rank("dense").cast(pl.Int64), pl.col("frame").fill_null(0).cast(pl.Float32)
    )
    video = frames["video"].to_numpy()
    time = (frames["frame"].to_numpy() / np.float32(temporal.fps)).astype(np.float32)
    order = np.lexsort((time, video))
    features, video, time = features[order], video[order], time[order]
    parts = []
    for near, own in windows(video, time, temporal.seconds, WINDOW):
        outputs = temporal.outputs(features[near], time[near], video[near])
        parts.append(np.concatenate([value[own] for value in outputs], 1))
    return places, np.concatenate(parts)[order.argsort()]


def _joined(
    places: list[NDArray[np.int64]], parts: list[NDArray[np.float32]], backend: Backend
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not places:
        width = sum(len(PREDICTION_COLUMNS[task]) for task in backend.tasks)
        return np.zeros(0, np.int64), np.zeros((0, width), np.float32)
    return np.concatenate(places), np.concatenate(parts)
