"""One number for one face through a video."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.detect import Face

Floats = NDArray[np.float64]

GAP = 30
"""Frames that a face may be out of sight and keep its number."""

UNLIKE = 0.25
"""Difference in look of two people: one face stays below .1 for seconds, four people differ by .28 and more."""

_NEVER = 100.0


@dataclass
class _Track:
    number: int
    box: Floats  # centre and size (4,)
    speed: Floats  # of the centre, pixels a frame (2,)
    look: Floats
    unseen: int = 0


class Tracker:
    """Gives faces numbers that stay theirs.

    Boxes are matched to tracks, the likest pair first, by place (1 - IoU with the box expected at constant speed) and
    look (Hellinger distance of the colours in the box). A face that stays out of sight is forgotten, so memory is
    constant.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next = 1

    def update(self, faces: list[Face], pixels: NDArray[np.uint8]) -> list[int]:
        """Numbers the faces of the next frame.

        Args:
            faces: All faces of the frame.
            pixels: The frame, RGB (height, width, 3).

        Returns:
            A number for each face, from 1 on; a new face gets the next one.
        """
        boxes = [np.array([x + w / 2, y + h / 2, w, h]) for x, y, w, h in (face.box for face in faces)]
        looks = [_look(face, pixels) for face in faces]
        cost = np.array(
            [[_cost(track, box, look) for track in self._tracks] for box, look in zip(boxes, looks, strict=True)]
        ).reshape(len(faces), len(self._tracks))
        for track in self._tracks:
            track.unseen += 1
        numbers = [0] * len(faces)
        for at in np.argsort(cost, axis=None, kind="stable"):
            row, column = divmod(int(at), len(self._tracks))
            if cost[row, column] < _NEVER and not numbers[row] and self._tracks[column].unseen:
                track = self._tracks[column]
                moved = (boxes[row][:2] - track.box[:2]) / track.unseen
                track.speed += 0.3 * (moved - track.speed)
                track.look = np.sqrt(0.9 * track.look**2 + 0.1 * looks[row] ** 2)
                track.box, track.unseen = boxes[row], 0
                numbers[row] = track.number
        for row, number in enumerate(numbers):
            if not number:
                self._tracks.append(_Track(self._next, boxes[row], np.zeros(2), looks[row]))
                numbers[row] = self._next
                self._next += 1
        self._tracks = [track for track in self._tracks if track.unseen <= GAP]
        return numbers


def _look(face: Face, pixels: NDArray[np.uint8]) -> Floats:
    """(256,) roots of the shares of hues (red and green of r + g + b = 1) in the box, bright pixels counting more."""
    x, y, w, h = face.box
    left, top = max(0, int(x)), max(0, int(y))
    part = pixels[top : max(top, int(y + h)), left : max(left, int(x + w))]
    if not part.size:
        return np.full(256, 1 / 16)
    small = cv2.resize(part, (32, 32), interpolation=cv2.INTER_AREA) + np.float32(8)
    light = small.sum(-1)
    # Where the hues of faces lie; stronger ones count as the strongest.
    red, green = (((small[..., c] / light - low) * 64).clip(0, 15).astype(int) for c, low in ((0, 0.28), (1, 0.22)))
    counts = np.bincount((red * 16 + green).ravel(), light.ravel(), 256)
    shares = cv2.GaussianBlur(counts.reshape(16, 16), (0, 0), 1).ravel()
    return np.asarray(np.sqrt(shares / shares.sum()))


def _cost(track: _Track, box: Floats, look: Floats) -> float:
    """Place and look, 0 to 1 each; 1 for a place that only lies near, where near grows with the time out of sight."""
    unlike = float(np.sqrt(max(0.0, 1 - float(track.look @ look))))
    expected = track.box + np.r_[track.speed * min(track.unseen + 1, GAP // 2), 0, 0]
    reach = (expected[2:] + box[2:]) / 2
    apart = np.abs(expected[:2] - box[:2])
    inter = float(np.minimum(reach - apart, np.minimum(expected[2:], box[2:])).clip(0).prod())
    iou = inter / float(expected[2:].prod() + box[2:].prod() - inter)
    # Somebody who passes before a face changes its look, but not its place.
    if unlike > UNLIKE + 0.4 * iou**2 or np.hypot(*(apart / reach)) > 1.5 + track.unseen / GAP:
        return _NEVER
    return 1 - iou + unlike
