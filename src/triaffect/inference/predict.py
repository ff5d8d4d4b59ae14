"""A model and an index in, predictions out; and the backbone's features of every frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from triaffect.data.predictions import fill_nearest
from triaffect.io import model_folder
from triaffect.labels import PREDICTION_COLUMNS
from triaffect.training.dataset import FrameDataset
from triaffect.training.loader import loader
from triaffect.training.model import AffectModel, probabilities
from triaffect.training.run_folder import precision
from triaffect.training.temporal import in_videos


def load_model(path: str | Path) -> AffectModel:
    """The model of a run folder or a model folder, or the bundled one by its name.

    Raises:
        InputError: There is no model there.
    """
    return AffectModel.from_pretrained(model_folder(path))


@torch.inference_mode()
def predict(
    model: AffectModel | str | Path,
    index: pl.DataFrame,
    images: str | Path,
    *,
    fill: Literal["none", "nearest"] = "none",
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    half: bool = True,
    progress: bool = True,
) -> pl.DataFrame:
    """Predicts every image of an index once.

    Args:
        model: A model, or the folder of a run or a model.
        index: Rows with `image`, `exists`, and `video` and `frame` where frames are filled.
        images: The folder that the column `image` is relative to.
        fill: `nearest` repeats the nearest predicted frame of the video where there is no crop (the mean of all
            predictions where the whole video has none), and marks it in the column `filled`.
        batch: Images a step.
        workers: Threads that decode.
        device: `auto`, `cpu`, `cuda` and the like.
        half: Compute in bfloat16 where the device does.
        progress: Show a progress bar.

    Returns:
        `image` and the columns of the model's tasks (Float32), in the order of the index.
    """
    network = model if isinstance(model, AffectModel) else load_model(model)
    wanted = index.unique("image", keep="first", maintain_order=True)
    dataset = FrameDataset(wanted, Path(images), network.size)
    rows: list[np.ndarray] = []
    outputs: dict[str, list[np.ndarray]] = {task: [] for task in network.tasks}
    seen: list[torch.Tensor] = []
    for number, features in _features(network, dataset, batch, workers, device, half, progress, "predict"):
        rows.append(number)
        if network.context is not None:
            seen.append(features)
            continue
        for task, value in probabilities(network.predict_from_features(features)).items():
            outputs[task].append(value.cpu().numpy())
    if seen:  # frames of a video see each other
        order = dataset.index[np.concatenate(rows)].select(
            pl.col("video").fill_null("").rank("dense").cast(pl.Int64), pl.col("frame").fill_null(0).cast(pl.Float32)
        )
        place = torch.from_numpy(np.lexsort((order["frame"].to_numpy(), order["video"].to_numpy())))
        time, video = order["frame"].to_torch() / network.settings["fps"], order["video"].to_torch()
        every = torch.cat(seen)
        raw = in_videos(network, *(part.to(every.device)[place] for part in (every, time, video)))
        for task, value in probabilities(raw).items():
            outputs[task].append(value.cpu().numpy()[place.argsort().numpy()])
    names = [dataset.name(int(row)) for part in rows for row in part]
    columns: dict[str, np.ndarray] = {}
    for task in network.tasks:
        values = np.concatenate(outputs[task]) if names else np.zeros((0, len(PREDICTION_COLUMNS[task])), np.float32)
        columns |= {name: values[:, i] for i, name in enumerate(PREDICTION_COLUMNS[task])}
    found = pl.DataFrame({"image": pl.Series(names, dtype=pl.String), **columns})
    if fill == "nearest":
        return fill_nearest(found, wanted)
    return wanted.select("image").join(found, on="image", how="inner", maintain_order="left")


@torch.inference_mode()
def features(
    model: AffectModel | str | Path,
    index: pl.DataFrame,
    images: str | Path,
    *,
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    progress: bool = True,
) -> tuple[list[str], np.ndarray]:
    """The backbone's pooled features of every image of an index.

    Returns:
        The images, and their features (N, width) as float16.
    """
    network = model if isinstance(model, AffectModel) else load_model(model)
    dataset = FrameDataset(index.unique("image", keep="first", maintain_order=True), Path(images), network.size)
    rows, values = [], []
    for number, part in _features(network, dataset, batch, workers, device, True, progress, "features"):
        rows.append(number)
        values.append(part.half().cpu().numpy())
    names = [dataset.name(int(row)) for part in rows for row in part]
    return names, np.concatenate(values) if values else np.zeros((0, network.width), np.float16)


def _features(
    network: AffectModel,
    dataset: FrameDataset,
    batch: int,
    workers: int,
    device: str,
    half: bool,
    progress: bool,
    verb: str,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Row numbers and features, batch by batch; images that cannot be read are named once, together."""
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    network.eval().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bad: list[tuple[str, str]] = []
    half = half and precision("auto", place.type) == "bf16-mixed"
    with (
        tqdm(total=len(dataset), desc=verb, unit="image", disable=not progress) as bar,
        torch.autocast(place.type, torch.bfloat16, enabled=half),
    ):
        for part in loader(dataset, batch, workers if len(dataset) > batch else 0):
            bad += part["bad"]
            if len(part["row"]):
                yield part["row"].numpy(), network.features(part["image"].to(place, non_blocking=True)).float()
            bar.update(len(part["row"]) + len(part["bad"]))
    if bad:
        named = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
        warnings.warn(f"skipped {len(bad)} images that cannot be read ({named})", stacklevel=2)
