"""Which frames an epoch sees, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from torch.utils.data import Sampler

WINDOW = 32
"""Least number of neighbouring frames that stay together in the batches of a temporal model."""


class Draw:
    """The frames of each epoch: every n-th of a video, or drawn so that classes or videos are even.

    Args:
        index: The rows of the training data set.
        balance: `none`, `class` or `video`.
        stride: Use every n-th frame of a video in an epoch.
        seed: Seed of the draws.
    """

    def __init__(self, index: pl.DataFrame, balance: str = "none", stride: int = 1, seed: int = 0) -> None:
        self.stride, self.seed, self.rows = stride, seed, len(index)
        self.count = max(1, len(index) // stride)
        video = index["video"].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        place_in_video = pl.col("frame").fill_null(0).rank("ordinal").over("video") - 1
        self.place = index.select(place_in_video).to_series().to_numpy().astype(np.int64)
        self.video, self.weight = video, self._weight(balance, index, video)

    @staticmethod
    def _weight(balance: str, index: pl.DataFrame, video: np.ndarray) -> np.ndarray | None:
        """One over the size of the row's group; rows without an expression get the mean weight of the others."""
        if balance == "none":
            return None
        group = video if balance == "video" else index["expression"].fill_null(-1).to_numpy().astype(np.int64)
        _, place, size = np.unique(group, return_inverse=True, return_counts=True)
        weight, labelled = 1 / size[place], group >= 0
        if labelled.any():
            weight[~labelled] = weight[labelled].mean()
        return weight

    def __call__(self, epoch: int) -> np.ndarray:
        """Row numbers of an epoch (count,), shuffled; with `balance` a row may occur several times."""
        rng = np.random.default_rng((self.seed, epoch))
        offset = np.random.default_rng(self.seed).integers(0, self.stride, int(self.video.max(initial=0)) + 1)
        # Each video starts at another frame, and one frame later in the next epoch.
        rows = np.flatnonzero((self.place + offset[self.video] + epoch) % self.stride == 0)
        if not len(rows):
            rows = np.arange(self.rows)
        if self.weight is None:
            return np.resize(rng.permutation(rows), self.count)
        share = self.weight[rows] / self.weight[rows].sum()
        return rng.choice(rows, self.count, p=share)


class EpochSampler(Sampler[int]):
    """Keys of one process in one epoch: shuffled for training, in order for validation.

    Every process gets the same number, so that none waits for another: training leaves the remainder to the order of
    the next epoch, validation repeats rows, which are then counted once.

    Args:
        length: Rows of the data set.
        shuffle: Draw a new order for each epoch.
        seed: Seed of the orders.
        rank: Number of this process.
        world: Number of processes.
        draw: Rows of each epoch, if not each once.
        windows: Shuffle windows of this many neighbouring rows instead of single rows; 0 for single rows.
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        draw: Draw | None = None,
        windows: int = 0,
    ) -> None:
        self.length, self.shuffle, self.seed, self.rank, self.world = length, shuffle, seed, rank, world
        self.draw, self.windows, self.epoch = draw, windows, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        length = self.draw.count if self.draw else self.length
        return length // self.world if self.shuffle else -(-length // self.world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.keys().tolist())

    def keys(self) -> np.ndarray:
        """The keys of the epoch (len(self),), which `__iter__` yields one by one."""
        if self.draw:
            # A row that is drawn twice is augmented twice: each place in the epochs has its own key.
            order = self.draw(self.epoch) + (self.epoch * self.draw.count + np.arange(self.draw.count)) * self.length
        elif self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = self._shuffled_windows(rng) if self.windows else rng.permutation(self.length)
            order = order + self.epoch * self.length
        else:
            order = np.resize(np.arange(self.length), len(self) * self.world)
        if self.windows:  # neighbours stay in one process
            return order[self.rank * len(self) : (self.rank + 1) * len(self)]
        return order[self.rank :: self.world][: len(self)]

    def _shuffled_windows(self, rng: np.random.Generator) -> np.ndarray:
        """Windows start at another row in each epoch, and come in random order."""
        rows = np.roll(np.arange(self.length), int(rng.integers(self.length)))
        parts = np.array_split(rows, max(1, self.length // self.windows))
        return np.concatenate([parts[i] for i in rng.permutation(len(parts))])
