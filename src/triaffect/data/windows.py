"""Pieces of videos, for models that see neighbouring frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def windows(
    video: NDArray[np.int64], time: NDArray[np.floating], reach: float, length: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Cut frames into pieces that can be computed independently.

    Args:
        video: (N,) number of each frame's video, sorted.
        time: (N,) seconds, sorted within each video.
        reach: How many seconds a frame sees to either side.
        length: Frames per piece, not counting the neighbours.

    Yields:
        The rows of a piece with all neighbours within reach, and which of these rows are the piece itself.
    """
    rows = np.arange(len(video))
    for start in range(0, len(video), length):
        end = min(start + length, len(video))
        # Wider than float32 rounds: a frame at exactly the reach counts, one beyond it does no harm.
        first, last = time[start] - reach - 1e-3, time[end - 1] + reach + 1e-3
        is_near = (video >= video[start]) & (video <= video[end - 1])
        is_near &= ((video > video[start]) | (time >= first)) & ((video < video[end - 1]) | (time <= last))
        yield rows[is_near], (rows[is_near] >= start) & (rows[is_near] < end)
