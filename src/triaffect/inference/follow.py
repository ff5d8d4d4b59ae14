"""Faces of consecutive frames: searched for several times a second and at cuts, followed in between."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from triaffect.images import similarity
from triaffect.inference.detect import SEARCH_SIZE, Face, YuNet, overlap
from triaffect.inference.frame import Frame, Pixels, Thumbnail, crop_matrix, transform

SEARCH_SECONDS = 0.25
"""Seconds between two searches at `SEARCH_SIZE`."""
SMALL_SEARCH_SECONDS = 1.0
"""Seconds between two searches for the smallest faces."""
_SIDE = 112
_GRID = np.stack(np.meshgrid(*[np.linspace(16, _SIDE - 16, 6)] * 2), -1).reshape(-1, 1, 2).astype(np.float32)
_LOST = 2.0  # pixels of the crop between a point and where the movement of the face puts it


class Follower:
    """Find the faces of the frames of one video, in order.

    Between two searches a face moves with a grid of points in its crop, whose optical flow (Lucas and Kanade 1981)
    gives a shift, a turn and a scale; that takes a tenth of the time. A frame of another shot, and one where the points
    of a face do not move together, is searched at once.

    Args:
        detector: Finds the faces.
    """

    def __init__(self, detector: YuNet) -> None:
        self.detector = detector
        self._followed: list[tuple[Face, Pixels]] = []  # faces, with the crop of each at the last search
        self._last: Thumbnail | None = None
        self._due = self._small_due = 0.0
        self.cut = True

    def __call__(self, frame: Frame) -> list[Face]:
        """Return the faces of the next frame."""
        last, self._last = self._last, frame.thumbnail
        self.cut = last is None or last.is_another_shot(frame.thumbnail)
        near = last is not None and frame.time - last.time < SEARCH_SECONDS / 2
        follows = near and not self.cut
        moved = [(_move(face, grey, frame), face, grey) for face, grey in self._followed] if follows else []
        faces = [face for face, _, _ in moved if face is not None]
        if follows and frame.time < self._due and len(faces) == len(self._followed):
            self._followed = [(face, grey) for face, _, grey in moved if face is not None]
            return faces
        # A lost face is still the best guess of how a face near its place is turned.
        lost = [old for face, old, _ in moved if face is None]
        faces = self._search(frame, faces + lost)
        self._followed = [(face, frame.align_brightness(face.five, _SIDE)) for face in faces]
        return faces

    def _search(self, frame: Frame, earlier: list[Face]) -> list[Face]:
        self._due = frame.time + SEARCH_SECONDS
        if self.cut or frame.time >= self._small_due:
            self._small_due = frame.time + SMALL_SEARCH_SECONDS
            return self.detector.find_any_way_up(frame, earlier)
        faces = self.detector.find(frame, min(SEARCH_SIZE, self.detector.size or SEARCH_SIZE), earlier)
        for face in earlier:
            # Perhaps too small for this search: a close-up shows whether it is still there.
            if all(overlap(face.box, other.box) < 0.3 for other in faces):
                landmarks, score = self.detector.refine(frame, face.five)
                if score > 0.6:
                    faces.append(replace(face, landmarks=landmarks))
        return faces


def _move(face: Face, grey: Pixels, frame: Frame) -> Face | None:
    """The face of an earlier frame where it is in this one, or None if its points do not move together."""
    points, status, _ = cv2.calcOpticalFlowPyrLK(
        grey, frame.align_brightness(face.five, _SIDE), _GRID, None, winSize=(15, 15), maxLevel=2
    )  # type: ignore[call-overload]
    tracked = status.ravel() == 1
    for _ in range(2):
        if tracked.sum() < 12:
            return None
        motion = similarity(_GRID[tracked, 0], points[tracked, 0])
        apart = np.linalg.norm(transform(motion, _GRID[:, 0]) - points[:, 0], axis=1)
        error = float(np.sqrt(np.mean(apart[tracked] ** 2)))
        tracked &= apart < max(1.0, 2 * float(np.median(apart[tracked])))
    if error > _LOST or not 0.7 < np.hypot(*motion[:, 0]) < 1.4:
        return None
    # The template is where the landmarks were; its place now, in the crop and then in the frame.
    to_crop = crop_matrix(face.five, _SIDE)
    landmarks = transform(cv2.invertAffineTransform(to_crop), transform(motion, transform(to_crop, face.five)))
    scale, (x, y, w, h) = float(np.hypot(*motion[:, 0])), face.box
    shift = landmarks.mean(0) - face.five.mean(0)
    box = (x + w * (1 - scale) / 2 + shift[0], y + h * (1 - scale) / 2 + shift[1], w * scale, h * scale)
    return replace(face, box=tuple(map(float, box)), landmarks=landmarks.astype(np.float32))  # type: ignore[arg-type]
