"""Faces that a model with a causal context sees through time: what it keeps of each, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUTS = ("crops", "time", "face", "past", "past_time", "past_face")
"""Of the graph that `export` writes beside the still one: crops (N, size, size, 3), uint8, their times in seconds and
faces' numbers (N,), and the features (P, width), times and faces of the frames before."""


@dataclass(slots=True)
class Follow:
    """A model's way to see frames after others.

    Attributes:
        seconds: How far back it sees.
        width: Of its features.
        run: From `INPUTS` to each task's predictions of the new crops and, last, their features (N, width).
    """

    seconds: float
    width: int
    run: Callable[..., Sequence[NDArray[np.float32]]]


class Following:
    """One video: each face's features of the last seconds are kept, and seen with its next frame.

    Args:
        follow: The model's way to see them.
        tasks: Of the model.
    """

    def __init__(self, follow: Follow, tasks: Sequence[str]) -> None:
        self.follow, self.tasks = follow, tuple(tasks)
        self.features = np.zeros((0, follow.width), np.float32)
        self.time, self.face = np.zeros(0), np.zeros(0, np.int64)

    def __call__(
        self, crops: NDArray[np.uint8], time: Sequence[float], face: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Predictions of the next crops, of one frame or several, whose times do not go back.

        Args:
            crops: (N, size, size, 3), RGB.
            time: Seconds, (N,).
            face: The face's number, (N,).
        """
        times, faces = np.asarray(time, float), np.asarray(face, np.int64)
        start = times.min()
        kept = self.time >= start - self.follow.seconds * (1 + 1e-6)
        self.features, self.time, self.face = self.features[kept], self.time[kept], self.face[kept]
        # Since the first of them, for float32 loses the frames of a long video's last hour.
        now, before = ((part - start).astype(np.float32) for part in (times, self.time))
        given: tuple[Any, ...] = (crops, now, faces, self.features, before, self.face)
        *said, new = self.follow.run(*given)
        self.features = np.concatenate([self.features, new])
        self.time, self.face = np.concatenate([self.time, times]), np.concatenate([self.face, faces])
        return dict(zip(self.tasks, said, strict=True))
