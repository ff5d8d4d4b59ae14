"""Predict every image of an index: one loop for torch, ONNX Runtime, OpenVINO and the peers, still or temporal."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.image_store import read_batches
from triaffect.data.predictions import fill_gaps
from triaffect.data.windows import windows
from triaffect.inference.backends import Backend, Network, TemporalModel, open_backend
from triaffect.inference.peers import is_peer, open_peer
from triaffect.io import InputError
from triaffect.jobs import PerProcess, run_all, threads_each
from triaffect.labels import PREDICTION_COLUMNS
from triaffect.text import plural, progress_bar

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

WINDOW = 512
"""Frames of a video that a temporal model sees at once, their neighbours not counted."""


def predict(
    model: AffectModel | Backend | str | Path | PerProcess[Backend],
    index: pl.DataFrame,
    images: str | os.PathLike[str],
    *,
    fill: Literal["none", "nearest", "linear"] = "none",
    batch: int = 128,
    workers: int = 2,
    backend: str = "auto",
    device: str = "auto",
    half: bool = True,
    progress: bool = True,
    jobs: int = 1,
    ray: str | None = None,
) -> pl.DataFrame:
    """Predict every image of an index once.

    Args:
        model: A model, the folder of a run or a model, `triaffect-base`, an exported file, a peer such as `fer`, or a
            backend that is already open. Several processes need one that can be pickled, such as a path.
        index: Rows with `image`; `exists` if known; `video` and `frame` for temporal models and to fill frames.
        images: The folder that the column `image` is relative to, or a packed file.
        fill: Where there is no crop, `nearest` repeats the nearest predicted frame of the video and `linear`
            interpolates valence and arousal (see `data.predictions.fill_gaps`); the column `filled` marks those rows.
        batch: Images per step.
        workers: Decoding threads.
        backend: As in `open_backend`.
        device: Device of torch, as in `open_backend`.
        half: With torch, compute in bfloat16 where the device does.
        progress: Show a progress bar.
        jobs: Number of processes that share the index.
        ray: Address of a Ray cluster to use instead, see `jobs.run_all`.

    Returns:
        `image` and the columns of the model's tasks (Float32), in the order of the index. Images that cannot be read,
        or in which a peer finds no face, are missing.

    Raises:
        InputError: The model cannot be opened, an image's name leaves its root, or there is nothing to fill from.
    """
    if isinstance(model, PerProcess):
        shared = model
    else:
        shared = PerProcess(partial(open_predictor, model, backend, device, half, threads_each(jobs, ray)))
    opened = shared.get()
    unique = index.unique("image", keep="first", maintain_order=True)
    rows = unique.filter(pl.col("exists").fill_null(True)) if "exists" in unique.columns else unique
    alone = jobs == 1 and ray is None
    slices = [np.arange(len(rows))] if alone else _slices(rows, batch, getattr(opened, "temporal", None) is not None)
    gpus = None if device == "cpu" else ()
    parts, unreadable, notices = list[pl.DataFrame](), list[tuple[str, str]](), list[tuple[str, str]]()
    with progress_bar(total=len(rows), desc=f"predict, {opened.name}", unit="image", disable=not progress) as bar:
        call = partial(_predict_slice, shared, os.fspath(images), batch, workers, bar.update if alone else None)
        numbered = rows.with_row_index("row")
        items = (numbered[part] for part in slices)
        for outcome in run_all(call, items, jobs, gpus, ray=ray):
            if outcome.result is None:
                raise outcome.error or RuntimeError
            parts.append(outcome.result[0])
            unreadable += outcome.result[1]
            notices += outcome.result[2]
            bar.update(0 if alone else len(outcome.item))
    for cases, what in ((unreadable, "skipped {} that cannot be read"), (notices, "{} read with a note")):
        if cases:
            examples = "; ".join(f"{name}: {reason}" for name, reason in cases[:3])
            warnings.warn(f"{what.format(plural(len(cases), 'image'))} ({examples})", stacklevel=2)
    table = pl.concat(parts).sort("row").drop("row")
    table = table.filter(~pl.any_horizontal(pl.exclude("image").is_nan()))
    return table if fill == "none" else fill_gaps(table, unique, fill)


def open_predictor(
    model: AffectModel | Backend | str | Path,
    backend: str = "auto",
    device: str = "auto",
    half: bool = True,
    threads: int = 0,
) -> Backend:
    """Open a model or a peer to predict an index with.

    Args:
        model: As for `predict`.
        backend: As in `open_backend`.
        device: As in `open_backend`.
        half: As in `open_backend`.
        threads: Threads of the backend; 0 is about one per processor.

    Raises:
        InputError: It cannot be opened, or `backend` or `device` is given to a peer, which chooses its own.
    """
    opened = open_peer(model) if isinstance(model, str) and is_peer(model) else model
    if not isinstance(opened, Backend):
        return open_backend(opened, backend, threads=threads, device=device, half=half)
    if (backend, device) != ("auto", "auto"):
        raise InputError(f"{opened.name}: backend and device cannot be chosen for it; leave them out")
    return opened


SLICE = 4096
"""Images that a process predicts at a time, about."""


def _slices(rows: pl.DataFrame, batch: int, temporal: bool) -> list[NDArray[np.int64]]:
    """Row numbers of each slice: whole batches, and of a temporal model whole videos."""
    size = max(1, SLICE // batch) * batch
    row = pl.int_range(pl.len())
    first_row = row.min().over(pl.col("video").fill_null("")) if temporal else row
    number = rows.select(first_row // size).to_series().to_numpy()
    return [np.flatnonzero(number == n) for n in np.unique(number)]


def _predict_slice(
    shared: PerProcess[Backend],
    images: str,
    batch: int,
    workers: int,
    update: Callable[[int], Any] | None,
    rows: pl.DataFrame,
) -> tuple[pl.DataFrame, list[tuple[str, str]], list[tuple[str, str]]]:
    """Row number, image and predictions of what could be read, what could not be read, notices."""
    backend, unreadable, notices = shared.get(), list[tuple[str, str]](), list[tuple[str, str]]()
    temporal: TemporalModel | None = getattr(backend, "temporal", None)
    if isinstance(backend, Network):
        backend = replace(backend, batch=batch)
    columns = [column for task in backend.tasks for column in PREDICTION_COLUMNS[task]]

    def describe(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if temporal is not None:
            return temporal.features(crops)
        outputs = backend(crops)
        return np.concatenate([outputs[task] for task in backend.tasks], 1)

    places, parts = list[NDArray[np.int64]](), list[NDArray[np.float32]]()
    for part in read_batches(images, rows["image"], backend.size, batch, workers if len(rows) > batch else 0):
        unreadable += part.unreadable
        notices += part.notices
        if len(part.rows):
            places.append(part.rows)
            parts.append(describe(part.pixels))
        if update:
            update(len(part.rows) + len(part.unreadable))
    if not parts:
        values, predicted = np.zeros((0, len(columns)), np.float32), rows.clear()
    else:
        values, predicted = np.concatenate(parts), rows[np.concatenate(places)]
        values = values if temporal is None else _predict_over_time(temporal, values, predicted)
    return predicted.select("row", "image").hstack(pl.DataFrame(values, columns)), unreadable, notices


def _predict_over_time(
    temporal: TemporalModel, features: NDArray[np.float32], rows: pl.DataFrame
) -> NDArray[np.float32]:
    """Predictions (N, columns) of frames that see their neighbours, from the features of each."""
    video = rows["video"].fill_null("").rank("dense").cast(pl.Int64).to_numpy()
    time = np.asarray(rows["frame"].fill_null(0).cast(pl.Float32).to_numpy() / np.float32(temporal.fps), np.float32)
    order = np.lexsort((time, video))
    features, video, time = features[order], video[order], time[order]
    parts = []
    for near, inside in windows(video, time, temporal.seconds, WINDOW):
        outputs = temporal.outputs(features[near], time[near], video[near])
        parts.append(np.concatenate([value[inside] for value in outputs], 1))
    return np.concatenate(parts)[order.argsort()]
