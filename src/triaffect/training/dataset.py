"""From index rows to batches: decoding, augmentation, order. A batch is decoded and warped in one call.

A batch holds uint8 images (N, 3, size, size), RGB; normalisation is the model's own first layer, so that training,
inference and exported models cannot differ in it. Missing targets are NaN (va, au) and -1 (expr); with soft labels
expressions are distributions (N, 8), missing rows NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import simplejpeg
import torch
from torch.utils.data import Dataset, Sampler

from triaffect.data.image_store import decode_into, open_images
from triaffect.data.index import image_root, load_index, subset
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS
from triaffect.training.config import DataConfig, TrainConfig
from triaffect.training.sampling import Draw

HAS_CROP = pl.col("exists").fill_null(True)
"""Rows with a crop; a generic table that does not say is taken at its word, and what is not there is named later."""

SOFT = "soft/"
"""Before the names of prediction columns that stand in for missing labels (`data.soft`)."""

Batch = dict[str, Any]


@dataclass(frozen=True)
class Augmentation:
    """Flip, rotation, scale, shift as one affine warp, and brightness, contrast, saturation as one colour matrix.

    Every image of a batch has its own draw. `degrade` and `erase` are what a worse camera and a hand make of a face.
    """

    flip: float
    rotation: float
    scale: float
    shift: float
    jitter: float
    degrade: float = 0.0
    erase: float = 0.0

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """One picture's warp (2, 3), from a pixel of the result to one of the picture, and its colour matrix (3, 4)."""
        turn, zoom, right, down = rng.uniform(-1, 1, 4).tolist()
        mirror = -1 if rng.random() < self.flip else 1
        angle, centre, shrink = math.radians(turn * self.rotation), (size - 1) / 2, 1 / (1 + zoom * self.scale)
        cos, sin = math.cos(angle) * shrink, math.sin(angle) * shrink
        x, y = centre + right * self.shift * size, centre + down * self.shift * size
        warp = np.array(
            [
                [mirror * cos, -mirror * sin, centre - mirror * (cos * x - sin * y)],
                [sin, cos, centre - sin * x - cos * y],
            ]
        )
        bright, contrast, saturation = (1 + rng.uniform(-1, 1, 3) * self.jitter).tolist() if self.jitter else (1, 1, 1)
        colour = np.full((3, 4), bright * contrast * (1 - saturation) / 3)
        colour[:, :3] += bright * contrast * saturation * np.eye(3)
        colour[:, 3] = (1 - contrast) * 127.5
        return warp, colour

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments one picture (size, size, 3), uint8; its border is repeated where the warp looks outside."""
        size = pixels.shape[0]
        warp, colour = self.draw(rng, size)
        if self.rotation or self.scale or self.shift:
            way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            pixels = cv2.warpAffine(pixels, warp, (size, size), flags=way, borderMode=cv2.BORDER_REPLICATE)
        elif warp[0, 0] < 0:
            pixels = pixels[:, ::-1]
        if self.jitter:
            pixels = cv2.transform(pixels, colour)
        if self.degrade and rng.random() < self.degrade:
            pixels = _degrade(pixels, rng)
        if self.erase and rng.random() < self.erase:
            height, width = (rng.uniform(0.1, 0.5, 2) * size).astype(int)
            top, left = rng.integers(0, size - height), rng.integers(0, size - width)
            pixels = np.array(pixels)
            pixels[top : top + height, left : left + width] = rng.integers(0, 256, 3)
        return pixels


def _degrade(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = pixels.shape[0]
    fewer, blur, grain, gamma, jpeg = rng.random(5) < 0.5
    if gamma:
        curve = 255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.7, 0.7))
        pixels = cv2.LUT(pixels, curve.astype(np.uint8))
    if fewer:
        side = int(size * rng.uniform(0.3, 0.9))
        pixels = cv2.resize(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), (size, size))
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.2, 1.4) * size / 112)
    if grain:
        noise = rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(1, 12)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    if jpeg:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), int(rng.integers(20, 90)))
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    return pixels


class FrameDataset(Dataset[Batch]):
    """The rows of an index that have a crop.

    Its keys are row numbers plus `epoch * len(self)`: an epoch's draws follow from the seed and the key alone,
    whichever worker makes them, so that a resumed run sees the same images as an uninterrupted one.

    Args:
        index: Rows to read; those without a crop are left out.
        images: The folder that the column `image` is relative to, or what `pack` wrote.
        size: Side of the images in a batch.
        augmentation: Applied to each image, or None.
        seed: Of the augmentation.
        keep: Keep each picture in memory, decoded and resized, from its first use on.
    """

    def __init__(
        self,
        index: pl.DataFrame,
        images: Path,
        size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> None:
        self.index = index.filter(HAS_CROP)
        self.images, self.size, self.augmentation, self.seed = images, size, augmentation, seed
        self.read = open_images(images, self.index["image"])
        # Pages that nothing is written to take no memory: each process holds what it has seen.
        self.kept = np.empty((len(self), size, size, 3), np.uint8) if keep else None
        self.known = np.zeros(len(self), bool)
        self.resident: dict[str, str] | None = None
        """What could not be read, once the pictures are on a device (`loading.Resident`); batches then have none."""
        self.targets = {task: self._target(task) for task in LABEL_COLUMNS}

    def _target(self, task: str) -> np.ndarray:
        labels, names = self._columns(LABEL_COLUMNS[task]), [SOFT + c for c in PREDICTION_COLUMNS[task]]
        soft = self._columns(names) if set(names) & set(self.index.columns) else None
        if task != "expr":
            return labels if soft is None else np.where(np.isnan(labels), soft, labels)
        codes = np.nan_to_num(labels[:, 0], nan=-1).astype(np.int64)
        if soft is None:
            return codes
        return np.where(codes[:, None] < 0, soft, np.eye(soft.shape[1], dtype=np.float32)[codes])

    def _columns(self, names: Sequence[str]) -> np.ndarray:
        """(N, len(names)) float32, NaN where there is nothing."""
        values = np.full((len(self), len(names)), np.nan, np.float32)
        for place, name in enumerate(names):
            if name in self.index.columns:
                values[:, place] = self.index[name].cast(pl.Float32).to_numpy()
        return values

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[int]) -> Batch:
        """Reads a batch; `bad` holds what could not be read, as (image, reason)."""
        if self.resident is not None:
            return self._without_pictures(keys, self.resident)
        pixels = np.empty((len(keys), self.size, self.size, 3), np.uint8)
        rows: list[int] = []
        bad: list[tuple[str, str]] = []
        length = len(self)
        for key in keys:
            row, place = key % length, pixels[len(rows)]
            try:
                picture = self._picture(row, place)
            except (OSError, ValueError, cv2.error) as error:
                bad.append((self.name(row), getattr(error, "strerror", None) or str(error)))
                continue
            if self.augmentation is not None:
                picture = self.augmentation(picture, np.random.default_rng((self.seed, key)))
            if picture is not place:
                place[:] = picture
            rows.append(row)
        # Channels last in memory, as convolutions on a CPU and in half precision want it.
        return {"image": torch.from_numpy(pixels[: len(rows)]).permute(0, 3, 1, 2), **self._labels(rows, bad)}

    def _picture(self, row: int, place: np.ndarray) -> np.ndarray:
        """A picture, in `place` already where nothing has to be done to it."""
        if self.kept is not None and self.known[row]:
            return self.kept[row]
        decode_into(self.read, row, place)
        if self.kept is not None:
            self.kept[row] = place
            self.known[row] = True
        return place

    def _without_pictures(self, keys: list[int], unread: dict[str, str]) -> Batch:
        keys = [key for key in keys if not unread or self.name(key % len(self)) not in unread]
        batch = self._labels([key % len(self) for key in keys], list(unread.items()))
        if self.augmentation is not None and keys:
            drawn = [self.augmentation.draw(np.random.default_rng((self.seed, key)), self.size) for key in keys]
            warps, colours = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*drawn, strict=True))
            batch |= {"warp": warps, "colour": colours}
        return batch

    def _labels(self, rows: list[int], bad: list[tuple[str, str]]) -> Batch:
        targets = {task: torch.from_numpy(target[rows]) for task, target in self.targets.items()}
        return {"row": torch.tensor(rows, dtype=torch.int64), "bad": bad, **targets}

    def name(self, row: int) -> str:
        """The column `image` of a row."""
        return self.index["image"][row]


class EpochSampler(Sampler[int]):
    """Row numbers of one process in one epoch: shuffled for training, in order for judging.

    Every process gets the same number (so that none waits for another): training leaves the remainder to the next
    epoch's order, judging repeats rows, which are then counted once.
    """

    def __init__(
        self, length: int, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1, draw: Draw | None = None
    ) -> None:
        self.length, self.shuffle, self.seed, self.rank, self.world = length, shuffle, seed, rank, world
        self.draw, self.epoch = draw, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        length = self.draw.count if self.draw else self.length
        return length // self.world if self.shuffle else -(-length // self.world)

    def __iter__(self) -> Iterator[int]:
        if self.draw:
            # A row that is drawn twice is augmented twice: each place in the epochs has a key of its own.
            order = self.draw(self.epoch) + (self.epoch * self.draw.count + np.arange(self.draw.count)) * self.length
        elif self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length) + self.epoch * self.length
        else:
            order = np.resize(np.arange(self.length), len(self) * self.world)
        return iter(order[self.rank :: self.world][: len(self)].tolist())


def augmentation(config: DataConfig) -> Augmentation:
    """The augmentation that a configuration asks for."""
    return Augmentation(
        config.flip, config.rotation, config.scale, config.shift, config.jitter, config.degrade, config.erase
    )


def training_rows(config: TrainConfig) -> tuple[pl.DataFrame, pl.DataFrame, Path]:
    """Training and validation rows that have a crop and a label of one of the model's tasks, and their image root.

    Raises:
        InputError: There is no such row, or no such folder.
    """
    data, name = config.data, config.data.index
    if not name:
        raise InputError("data.index is not set; name the index that `triaffect index` wrote")
    index = load_index(name)
    for path in data.soft:
        index = _with_soft(index, path, data.train)
    named = [c for t in config.model.tasks for c in (*LABEL_COLUMNS[t], *(SOFT + p for p in PREDICTION_COLUMNS[t]))]
    columns = [c for c in named if c in index.columns]
    if not columns:
        raise InputError(f"{name}: has no label of {', '.join(config.model.tasks)}")
    labelled = pl.any_horizontal(pl.col(columns).is_not_null())
    if config.coupling.matching:  # learns from images without any label, too
        labelled |= pl.col("split") == data.train
    found = []
    for split in (data.train, data.val):
        rows = index.filter((pl.col("split") == split) & HAS_CROP & labelled)
        if rows.is_empty():
            raise InputError(f"{name}: no image with a label of {', '.join(config.model.tasks)} in split {split!r}")
        found.append(rows)
    select = config.training.select
    if (
        select != "total"
        and not found[1].select(pl.any_horizontal(pl.col(LABEL_COLUMNS[select]).is_not_null().any())).item()
    ):
        raise InputError(f"{name}: no label of {select} in split {data.val!r}, which training.select judges by")
    train_rows = subset(found[0], data.fraction, data.fraction_by, config.training.seed)
    # What is judged has labels of its own only.
    return train_rows, found[1].select(pl.exclude(f"^{SOFT}.*$")), image_root(name, data.images)


def _with_soft(index: pl.DataFrame, path: str, split: str) -> pl.DataFrame:
    """The index with a predictions file's values beside the labels, for one split."""
    said = load_predictions(path).drop("filled", strict=False)
    said = said.rename({c: SOFT + c for c in said.columns if c != "image"})
    if twice := set(said.columns) & set(index.columns) - {"image"}:
        raise InputError(f"{path}: {min(twice).removeprefix(SOFT)} stands in another file of data.soft, too; keep one")
    images = index.filter(pl.col("split") == split).select("image").unique()
    said = said.join(images, on="image", how="semi")
    if said.is_empty():
        raise InputError(f"{path}: has none of the images of split {split!r}; name predictions of this index")
    return index.join(said, on="image", how="left", maintain_order="left")
