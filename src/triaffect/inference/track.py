"""One number for one face through a video."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.detect import Face
from triaffect.inference.frame import Frame

Floats = NDArray[np.float64]

MAX_GAP = 30
"""Frames that a face may be out of sight and keep its number."""

DIFFERENT_PEOPLE = 0.25
"""Difference in colour between two people: one face stays below .1 for seconds, four people differ by .28 and more."""

_NO_MATCH = 100.0


@dataclass
class _Track:
    number: int
    box: Floats  # centre and size (4,)
    velocity: Floats  # of the centre, pixels per frame (2,)
    colours: Floats
    unseen: int = 0


class Tracker:
    """Number faces, and keep the number of each.

    Boxes are matched to tracks, the most similar pair first, by position (1 - IoU with the box expected at constant
    velocity) and colour (Hellinger distance of the colours in the box). A face that stays out of sight is forgotten, so
    memory is constant.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next = 1

    def update(self, faces: list[Face], frame: Frame) -> list[int]:
        """Number the faces of the next frame.

        Args:
            faces: All faces of the frame.
            frame: The frame.

        Returns:
            One number per face, from 1; a new face gets the next one.
        """
        boxes = [np.array([x + w / 2, y + h / 2, w, h]) for x, y, w, h in (face.box for face in faces)]
        colours = [_colours(face, frame) for face in faces]
        cost = np.array(
            [[_cost(track, box, c) for track in self._tracks] for box, c in zip(boxes, colours, strict=True)]
        ).reshape(len(faces), len(self._tracks))
        for track in self._tracks:
            track.unseen += 1
        numbers = [0] * len(faces)
        for pair in np.argsort(cost, axis=None, kind="stable"):
            row, column = divmod(int(pair), len(self._tracks))
            if cost[row, column] < _NO_MATCH and not numbers[row] and self._tracks[column].unseen:
                track = self._tracks[column]
                moved = (boxes[row][:2] - track.box[:2]) / track.unseen
                track.velocity += 0.3 * (moved - track.velocity)
                track.colours = np.sqrt(0.9 * track.colours**2 + 0.1 * colours[row] ** 2)
                track.box, track.unseen = boxes[row], 0
                numbers[row] = track.number
        for row, number in enumerate(numbers):
            if not number:
                self._tracks.append(_Track(self._next, boxes[row], np.zeros(2), colours[row]))
                numbers[row] = self._next
                self._next += 1
        self._tracks = [track for track in self._tracks if track.unseen <= MAX_GAP]
        return numbers


def _colours(face: Face, frame: Frame) -> Floats:
    """(256,) square roots of the shares of hues (red and green of r + g + b = 1) in the box, weighted by brightness."""
    x, y, w, h = face.box
    part, _ = frame.region((x, y, x + w, y + h), min(1.0, 32 / max(w, h)))
    small = cv2.resize(part, (32, 32), interpolation=cv2.INTER_AREA) + np.float32(8)
    brightness = small.sum(-1)
    # The range of hues of faces; stronger ones count as the strongest.
    red, green = (
        ((small[..., c] / brightness - low) * 64).clip(0, 15).astype(int) for c, low in ((0, 0.28), (1, 0.22))
    )
    counts = np.bincount((red * 16 + green).ravel(), brightness.ravel(), 256)
    shares = cv2.GaussianBlur(counts.reshape(16, 16), (0, 0), 1).ravel()
    return np.asarray(np.sqrt(shares / shares.sum()))


def _cost(track: _Track, box: Floats, colours: Floats) -> float:
    """Position plus colour, 0 to 1 each; position is 1 without overlap, within a distance that grows when unseen."""
    difference = float(np.sqrt(max(0.0, 1 - float(track.colours @ colours))))
    expected = track.box + np.r_[track.velocity * min(track.unseen + 1, MAX_GAP // 2), 0, 0]
    reach = (expected[2:] + box[2:]) / 2
    apart = np.abs(expected[:2] - box[:2])
    overlap = float(np.minimum(reach - apart, np.minimum(expected[2:], box[2:])).clip(0).prod())
    iou = overlap / float(expected[2:].prod() + box[2:].prod() - overlap)
    # Somebody who passes in front of a face changes its colours, but not its position.
    if difference > DIFFERENT_PEOPLE + 0.4 * iou**2 or np.hypot(*(apart / reach)) > 1.5 + track.unseen / MAX_GAP:
        return _NO_MATCH
    return 1 - iou + difference
