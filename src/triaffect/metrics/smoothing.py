"""A Gaussian mean over neighbouring frames, whatever is missing between them."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def smooth(values: Floats, video: NDArray, frame: NDArray, sigma: float) -> Floats:
    """Gaussian mean over neighbouring frames of the same video, weighted by their distance in frames.

    What is missing (a gap, the end of a video, NaN) has no weight. At a constant distance, away from the ends, this is
    `scipy.ndimage.gaussian_filter1d`, whose reach of 4 sigma it shares.

    Args:
        values: (n, columns).
        video: (n,) whole numbers.
        frame: (n,) whole numbers.
        sigma: Standard deviation in frames; 0 changes nothing.

    Returns:
        (n, columns), in the order given.
    """
    reach, out = int(4 * sigma + 0.5), np.array(values, float)
    if not reach or len(out) < 2:
        return out
    order = np.lexsort((frame, video))
    # Farther than the reach is as far as another video: distances are cut, and one line holds all videos.
    step = np.minimum(np.diff(frame[order].astype(np.int64)), reach + 1)
    step[np.diff(video[order]) != 0] = reach + 1
    far = np.concatenate([[True], step > reach, [True]])
    order, step = order[~(far[:-1] & far[1:])], np.concatenate([[reach + 1], step])[~(far[:-1] & far[1:])]
    if not len(order):
        return out
    place = np.cumsum(step) - step[0]
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for column in out.T:
        known = np.isfinite(column[order])
        total, weight = (
            np.convolve(np.bincount(place, values), bell)[reach:-reach][place]
            for values in (np.where(known, column[order], 0), known)
        )
        column[order] = np.where(known, total / np.maximum(weight, 1e-300), column[order])
    return out


def frames_of(table: pl.DataFrame) -> tuple[NDArray, NDArray]:
    """Video and frame of each row: from `file`, `face` and `frame` of an analysis, or from the image's path."""
    if {"file", "frame"} <= set(table.columns):
        keys, frame = [pl.col(c) for c in ("file", "face") if c in table.columns], pl.col("frame")
    else:
        parts = pl.col("image").str.extract_groups(r"^(.*?)([0-9]{1,9})\.[^./]*$")
        frame = parts.struct["2"].cast(pl.Int64)
        keys = [pl.coalesce(parts.struct["1"], "image").alias("video")]
    found = table.select(pl.struct(keys).rank("dense").alias("video"), frame.fill_null(0).alias("frame"))
    return found["video"].to_numpy().astype(np.int64), found["frame"].to_numpy()
