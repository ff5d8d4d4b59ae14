"""From index rows to batches: a batch is decoded, augmented and labelled in one call.

A batch holds uint8 images (N, 3, size, size), RGB: normalisation is the model's own first layer, so that training,
inference and exported models cannot differ in it. On cached features it holds those instead, float16 (N, width).
Missing targets are NaN (va, au) and -1 (expr); with soft labels expressions are distributions (N, 8), missing rows NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import torch
from torch.utils.data import Dataset

from triaffect.data.image_store import decode_into, open_images
from triaffect.data.index import HAS_CROP, image_root, keep_classes, load_index, subset
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS
from triaffect.training.augmentation import Augmentation
from triaffect.training.config import TrainConfig

SOFT = "soft/"
"""Prefix of prediction columns that replace missing labels (`data.soft`)."""

Batch = dict[str, Any]


def targets_of(index: pl.DataFrame) -> dict[str, np.ndarray]:
    """Targets of each task for the rows of an index: va (N, 2), expr (N,) or (N, 8), au (N, 12)."""
    targets = {}
    for task, names in LABEL_COLUMNS.items():
        labels, soft_names = _columns(index, names), [SOFT + name for name in PREDICTION_COLUMNS[task]]
        soft = _columns(index, soft_names) if set(soft_names) & set(index.columns) else None
        if task == "expr":
            codes = np.nan_to_num(labels[:, 0], nan=-1).astype(np.int64)
            one_hot = np.eye(len(soft_names), dtype=np.float32)
            targets[task] = codes if soft is None else np.where(codes[:, None] < 0, soft, one_hot[codes])
        else:
            targets[task] = labels if soft is None else np.where(np.isnan(labels), soft, labels)
    return targets


def _columns(index: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """(N, len(names)) float32, NaN where a value or the whole column is missing."""
    missing = [pl.lit(None, pl.Float32).alias(name) for name in names if name not in index.columns]
    return index.with_columns(missing).select(pl.col(names).cast(pl.Float32)).to_numpy(order="c")


class FrameDataset(Dataset[Batch]):
    """The rows of an index that have a crop.

    Its keys are row numbers plus `epoch * len(self)`. The draws of an epoch follow from the seed and the key alone,
    whichever thread makes them, so that a resumed run sees the same images as an uninterrupted one.

    Args:
        index: Rows to read; those without a crop are left out.
        images: The folder that the column `image` is relative to, or a packed file.
        size: Side of the images in a batch.
        augmentation: Applied to each image, or None.
        seed: Seed of the augmentation.
        cache: Keep each image in memory, decoded and resized, from its first use on.
    """

    def __init__(
        self,
        index: pl.DataFrame,
        images: Path,
        size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.index = index.filter(HAS_CROP)
        self.images, self.size, self.augmentation, self.seed = images, size, augmentation, seed
        self.read = open_images(images, self.index["image"])
        # Pages that nothing was written to take no memory: each process stores what it has decoded.
        self.cached_pixels = np.empty((len(self), size, size, 3), np.uint8) if cache else None
        self.is_cached = np.zeros(len(self), bool)
        self.on_device: dict[str, str] | None = None
        """Unreadable images and reasons, once the images are on a device (`loader.DeviceImages`)."""
        self.targets = targets_of(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int] | np.ndarray) -> Batch:
        """Read a batch; `bad` lists what could not be read, as (image, reason)."""
        numbers: list[int] = np.asarray(keys).tolist()
        if self.on_device is not None:
            return self._without_images(numbers, self.on_device)
        pixels = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        rows: list[int] = []
        bad: list[tuple[str, str]] = []
        length = len(self)
        for key in numbers:
            row, place = key % length, pixels[len(rows)]
            try:
                image = self._image(row, place)
            except (OSError, ValueError, cv2.error) as error:
                bad.append((self.name(row), getattr(error, "strerror", None) or str(error)))
                continue
            if self.augmentation is not None:
                image = self.augmentation(image, np.random.default_rng((self.seed, key)))
            if image is not place:
                place[:] = image
            rows.append(row)
        # Channels last in memory, as convolutions on a CPU and in half precision want it.
        return {"image": torch.from_numpy(pixels[: len(rows)]).permute(0, 3, 1, 2), **self._labels(rows, bad)}

    def _image(self, row: int, place: np.ndarray) -> np.ndarray:
        """The image of a row, from the cache or decoded into `place`."""
        if self.cached_pixels is not None and self.is_cached[row]:
            return self.cached_pixels[row]
        notices: list[str] = []
        decode_into(self.read, row, place, notices)
        for notice in notices:  # Python shows a text once
            warnings.warn(f"{self.name(row)}: {notice}", stacklevel=2)
        if self.cached_pixels is not None:
            self.cached_pixels[row] = place
            self.is_cached[row] = True
        return place

    def _without_images(self, keys: list[int], unreadable: dict[str, str]) -> Batch:
        keys = [key for key in keys if not unreadable or self.name(key % len(self)) not in unreadable]
        batch = self._labels([key % len(self) for key in keys], list(unreadable.items()))
        if self.augmentation is not None and keys:
            drawn = [self.augmentation.draw(np.random.default_rng((self.seed, key)), self.size) for key in keys]
            warps, colours = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*drawn, strict=True))
            batch |= {"warp": warps, "colour": colours}
        return batch

    def _labels(self, rows: Sequence[int] | np.ndarray, bad: list[tuple[str, str]]) -> Batch:
        rows = np.asarray(rows, np.int64)
        targets = {task: torch.from_numpy(target.take(rows, 0)) for task, target in self.targets.items()}
        return {"row": torch.from_numpy(rows), "bad": bad, **targets}

    def name(self, row: int) -> str:
        """The column `image` of a row."""
        return self.index["image"][row]


class FeatureDataset(FrameDataset):
    """The same rows with the features of a frozen backbone in place of images, sorted by video and frame.

    Args:
        index: Rows to read; those without a crop, and those whose image could not be read, are left out.
        folders: The folder that `triaffect features` wrote, or several whose features are joined.
        fps: Frames per second of the videos, which give frames their times.

    Raises:
        InputError: The features do not cover the rows.
    """

    def __init__(self, index: pl.DataFrame, folders: str | list[str], fps: float = 30.0) -> None:
        from triaffect.training.features import load_features

        rows = index.filter(HAS_CROP).sort("video", "frame", maintain_order=True)
        parts, readable = [], np.ones(len(rows), bool)
        for folder in [folders] if isinstance(folders, str) else folders:
            names, values = load_features(folder)
            places = pl.DataFrame({"image": names}).with_row_index("place")
            place = rows.select("image").join(places, on="image", how="left", maintain_order="left")["place"]
            if place.null_count():
                raise InputError(
                    f"{folder}: lacks {place.null_count():,} of {len(place):,} images of {rows['split'][0]} "
                    f"(first {rows['image'].filter(place.is_null())[0]}); extract the features of both splits"
                )
            parts.append((values, place.to_numpy()))
            readable &= np.isfinite(values[parts[-1][1], 0])
        # A plain view of the file, which needs no Python of numpy's class of memory maps for each batch.
        self.parts = [(np.asarray(values), place[readable].astype(np.int64)) for values, place in parts]
        self.index = rows.filter(readable)
        self.images, self.targets = Path(), targets_of(self.index)
        self.video = self.index["video"].fill_null("").rank("dense").to_numpy().astype(np.int64)
        self.time = (self.index["frame"].fill_null(0).to_numpy() / fps).astype(np.float32)

    def __getitems__(self, keys: Sequence[int] | np.ndarray) -> Batch:
        """Read a batch, with `time` in seconds and the number of the `video`."""
        rows = np.asarray(keys, np.int64) % len(self)
        parts = [torch.from_numpy(values.take(place[rows], 0)) for values, place in self.parts]
        frames = {"time": torch.from_numpy(self.time[rows]), "video": torch.from_numpy(self.video[rows])}
        return {"image": torch.cat(parts, 1) if len(parts) > 1 else parts[0], **frames, **self._labels(rows, [])}


def training_rows(config: TrainConfig) -> tuple[pl.DataFrame, pl.DataFrame, Path]:
    """Training and validation rows that have a crop and a label of one of the model's tasks, and their image root.

    Raises:
        InputError: There is no such row, or no such folder.
    """
    data, path = config.data, config.data.index
    if not path:
        raise InputError("data.index is not set; name the index that `triaffect index` wrote")
    index = keep_classes(load_index(path), config.model.classes)
    for soft_file in data.soft:
        index = _with_soft_labels(index, soft_file, data.train)
    tasks = ", ".join(config.model.tasks)
    labelled = [_has_label(index, task) for task in config.model.tasks]
    any_label = pl.any_horizontal(labelled)
    for_training = any_label if data.labelled == "any" else pl.all_horizontal(labelled)
    if config.coupling.matching:  # learns from images without any label, too
        for_training = pl.lit(True)
    val = subset(index.filter(split=data.val), data.val_fraction, data.fraction_by, stride=data.val_stride)
    train, val = index.filter(pl.col("split") == data.train, HAS_CROP, for_training), val.filter(HAS_CROP, any_label)
    for split, rows in ((data.train, train), (data.val, val)):
        if rows.is_empty():
            splits = ", ".join(index["split"].drop_nulls().unique().sort())
            advice = f"it has {splits}" if splits else f"give it a column split, with {data.train} and {data.val}"
            raise InputError(f"{path}: no image with a label of {tasks} in split {split!r}; {advice}")
    select = config.training.select
    # Models are evaluated on the index's own labels only.
    val = val.select(pl.exclude(f"^{SOFT}.*$"))
    if select in LABEL_COLUMNS and val.filter(_has_label(val, select)).is_empty():
        raise InputError(f"{path}: no label of {select} in split {data.val!r}, which training.select needs")
    train = subset(train, data.fraction, data.fraction_by, config.training.seed)
    return train, val, Path() if data.features else image_root(path, data.images)


def _has_label(index: pl.DataFrame, task: str) -> pl.Expr:
    columns = [c for c in (*LABEL_COLUMNS[task], *(SOFT + p for p in PREDICTION_COLUMNS[task])) if c in index.columns]
    return pl.any_horizontal(pl.col(columns).is_not_null())


def _with_soft_labels(index: pl.DataFrame, path: str, split: str) -> pl.DataFrame:
    """Add the values of a predictions file as soft labels of one split."""
    soft = load_predictions(path).drop("filled", strict=False)
    soft = soft.rename({c: SOFT + c for c in soft.columns if c != "image"})
    if twice := set(soft.columns) & set(index.columns) - {"image"}:
        raise InputError(f"{path}: {min(twice).removeprefix(SOFT)} is also in another file of data.soft; keep one")
    images = index.filter(pl.col("split") == split).select("image").unique()
    soft = soft.join(images, on="image", how="semi")
    if soft.is_empty():
        raise InputError(f"{path}: has none of the images of split {split!r}; name predictions of this index")
    return index.join(soft, on="image", how="left", maintain_order="left")
