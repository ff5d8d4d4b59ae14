"""Which frames an epoch sees, where it is not each of them once."""

from __future__ import annotations

import numpy as np
import polars as pl

from triaffect.training.config import DataConfig


class Draw:
    """The frames of each epoch: every n-th of a video, or drawn so that classes or videos are even.

    Args:
        config: `balance` and `stride`.
        index: The rows of the training data set.
        seed: Of the draws.
    """

    def __init__(self, config: DataConfig, index: pl.DataFrame, seed: int) -> None:
        self.stride, self.seed, self.rows = config.stride, seed, len(index)
        self.count = max(1, len(index) // config.stride)
        video = index["video"].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        order = np.lexsort((index["frame"].fill_null(0).to_numpy(), video))
        first = np.searchsorted(video[order], video)
        self.place = np.empty(len(index), np.int64)
        self.place[order] = np.arange(len(index))
        self.place -= first  # the row's place in its video
        self.video, self.weight = video, self._weight(config.balance, index, video)

    @classmethod
    def asked(cls, config: DataConfig, index: pl.DataFrame, seed: int) -> Draw | None:
        """None where every frame is to be seen once an epoch."""
        return cls(config, index, seed) if config.balance != "none" or config.stride > 1 else None

    @staticmethod
    def _weight(balance: str, index: pl.DataFrame, video: np.ndarray) -> np.ndarray | None:
        """One over the size of the row's group; rows without an expression weigh as a mean one."""
        if balance == "none":
            return None
        if balance == "video":
            group = video
        else:
            held = index["expression"] if "expression" in index.columns else pl.Series([None] * len(index))
            group = held.fill_null(-1).to_numpy().astype(np.int64)
        _, place, size = np.unique(group, return_inverse=True, return_counts=True)
        weight = 1 / size[place]
        if balance == "class" and (group < 0).any() and (group >= 0).any():
            weight[group < 0] = weight[group >= 0].mean()
        return weight

    def __call__(self, epoch: int) -> np.ndarray:
        """Row numbers of an epoch (count,), shuffled; a row may stand several times where `balance` is set."""
        rng = np.random.default_rng((self.seed, epoch))
        turn = np.random.default_rng(self.seed).integers(0, self.stride, int(self.video.max(initial=0)) + 1)
        # Each video starts elsewhere, and one frame later in the next epoch.
        rows = np.flatnonzero((self.place + turn[self.video] + epoch) % self.stride == 0)
        if not len(rows):
            rows = np.arange(self.rows)
        if self.weight is None:
            return np.resize(rng.permutation(rows), self.count)
        share = self.weight[rows] / self.weight[rows].sum()
        return rng.choice(rows, self.count, p=share)
