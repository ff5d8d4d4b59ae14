"""Find faces in an image, and cut the crop of a face that the models expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.backends import import_onnxruntime
from triaffect.inference.frame import Frame, crop_matrix, transform
from triaffect.io import InputError

WEIGHTS = "weights/face_detection_yunet_2023mar.onnx"

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""The five points in the order of `images.TEMPLATE`; right and left are the person's."""

SEARCH_SIZE = 320
"""Longer side at which every image is searched for faces from 1/18 of it up to all of it."""

MIN_SEARCH_SIZE = 192
"""Smaller images are enlarged to this side: faces of 48 pixels that fill their image are then found."""

SMALLEST = 18
"""Height in the searched picture, brow to chin, from which all faces are found (.83 of those of 16 pixels)."""

PHOTO_FACE = 24
"""Height in pixels from which faces are searched for in a photo."""

VIDEO_SHARE = 40
"""In a video they are searched for from the longer side divided by this."""

_TILE, _OVERLAP = 1280, 192
"""Side of the tiles of a large searched picture. What is larger than the overlap is found at a smaller size."""

CLOSE_UP_SIZE = 256
"""Side of the crop in which the landmarks of each face are found again."""
LOWEST = 0.5
"""The lowest score of a face."""
CONFIRMED, CERTAIN = 0.6, 0.8
"""A face whose close-up scores less is one only if the search was certain: the close-ups of faces score .8 and more."""
TURNED_SIZE = 192
"""Side of the close-ups that show which way up a face is."""

FRONTAL_LANDMARKS = np.array([(0.31, 0.40), (0.69, 0.40), (0.50, 0.59), (0.34, 0.77), (0.66, 0.77)], np.float32)
"""Landmarks in the box of a face that looks at the camera, as parts of its width and height."""

STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face.

    Attributes:
        box: Left, top, width and height in pixels; it may extend over the border of the image.
        landmarks: (5, 2) pixels in the order of `LANDMARKS`, or None if the detector has none.
        score: Score of the detector, 0 to 1: in the search or in the close-up, the higher one.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32] | None
    score: float

    @property
    def five(self) -> NDArray[np.float32]:
        """(5, 2) landmarks, or the points of the box where they usually are."""
        if self.landmarks is not None:
            return self.landmarks
        x, y, w, h = self.box
        return FRONTAL_LANDMARKS * np.array([w, h], np.float32) + np.array([x, y], np.float32)


class Detector(Protocol):
    """Anything that finds faces."""

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of an RGB image (height, width, 3), the best score first."""


def open_detector(name: str = "yunet", size: int | None = None, min_face: float = PHOTO_FACE) -> Detector:
    """Load a detector.

    Args:
        name: yunet.
        size: The longer side at which an image is searched; by default what `min_face` needs.
        min_face: Height in pixels, brow to chin, from which faces are searched for.

    Raises:
        InputError: There is no such detector.
    """
    if name != "yunet":
        raise InputError(f"detector {name!r}: the one in the package is yunet")
    return YuNet(size, min_face)


class YuNet:
    """The detector in the package (Wu, Peng and Yu 2023): five landmarks, 75,856 parameters.

    It finds faces of 18 to 300 pixels, so a large image is searched at several sizes, in tiles if need be. Landmarks of
    faces under 150 pixels hardly follow roll and yaw, and those of a face on its side or upside down are wrong, so each
    face is searched again in a close-up (benchmarks/detectors.py shows the gain). ONNX Runtime takes half the time of
    cv2.FaceDetectorYN; the arithmetic is that class's.

    Args:
        size: The longer side at which an image is searched; by default what `min_face` needs.
        min_face: Height in pixels, brow to chin, from which faces are searched for.
        threads: Threads of the search; 0 for one per processor.
    """

    def __init__(self, size: int | None = None, min_face: float = PHOTO_FACE, threads: int = 0) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # the file's output shapes are those of 640 x 640; others are not an error
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = resources.files("triaffect.inference").joinpath(WEIGHTS).read_bytes()
        # No weight depends on the input's 640 x 640: the two numbers become names, for any multiple of 32.
        model = model.replace(b"\x0a\x03\x08\x80\x05" * 2, b"\x0a\x03\x12\x01h\x0a\x03\x12\x01w")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [f"{part}_{stride}" for stride in STRIDES for part in ("cls", "obj", "bbox", "kps")]
        self.size, self.min_face = size, min_face

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of an RGB image (height, width, 3), the best score first.

        Raises:
            InputError: The array is not such an image.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise InputError(f"{pixels.dtype} {pixels.shape}: not an image; give uint8 RGB (height, width, 3)")
        return self.find(Frame(0, 0.0, pixels))

    def find(self, frame: Frame, size: int | None = None, earlier: Sequence[Face] = ()) -> list[Face]:
        """Return the faces of a frame, the best score first.

        Args:
            frame: A photo or a frame of a video.
            size: The longer side at which it is searched, in place of the detector's own.
            earlier: The same faces as they were a moment before: their landmarks are known but for a small movement.
        """
        faces: list[Face] = []
        for row in self.search(frame, size):
            face = Face((*map(float, row[:4]),), row[4:14].reshape(5, 2), float(row[14]))  # type: ignore[arg-type]
            before = [other for other in earlier if overlap(other.box, face.box) > 0.3]
            landmarks, score = self.refine(frame, before[0].five if before else self._upright(frame, face))
            is_seen_twice = any(_are_of_one_face(landmarks, other.five) for other in faces)
            if not is_seen_twice and (score >= CONFIRMED or face.score >= CERTAIN):
                faces.append(replace(face, landmarks=landmarks, score=max(score, face.score)))
        return sorted(faces, key=lambda face: -face.score)

    def find_any_way_up(self, frame: Frame, earlier: Sequence[Face] = ()) -> list[Face]:
        """As `find`; a frame without a face is searched again on its sides and upside down.

        The search alone misses nine of ten faces of 80 pixels that lie on their side.
        """
        return self.find(frame, None, earlier) or self._find_turned(frame.pixels, 3)

    def _find_turned(self, pixels: NDArray[np.uint8], turns: int) -> list[Face]:
        """The certain faces of an image (height, width, 3) after as few of `turns` right angles as show one."""
        turned = np.ascontiguousarray(np.rot90(pixels))
        faces = [face for face in self.find(Frame(0, 0.0, turned)) if face.score >= CERTAIN]
        if not faces and turns > 1:
            faces = self._find_turned(turned, turns - 1)
        return [_turned_back(face, pixels.shape[1]) for face in faces]

    def search(self, frame: Frame, size: int | None = None) -> NDArray[np.float32]:
        """(n, 15) left, top, width, height, landmarks as first found, and score of all faces, in pixels, best first."""
        longer = max(frame.width, frame.height)
        size = size or self.size or max(MIN_SEARCH_SIZE, round(longer * SMALLEST / self.min_face))
        # Only tiny images are enlarged. A face that fills the image is found at 640 pixels, but not at more.
        sizes = [min(size, max(MIN_SEARCH_SIZE, longer))]
        while sizes[-1] > 2 * SEARCH_SIZE:
            sizes.append(max(SEARCH_SIZE, sizes[-1] // 8))
        candidates = np.concatenate([self._search_tiles(frame, side / longer) for side in sizes])
        best = cv2.dnn.NMSBoxes(candidates[:, :4].tolist(), candidates[:, 14].tolist(), LOWEST, 0.3)
        return candidates[np.asarray(best, int)]

    def refine(self, frame: Frame, landmarks: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """(5, 2) landmarks found again in the crop that they align, until that is upright; and their score, or 0."""
        score = 0.0
        for _ in range(3):
            close_up = self._close_up(frame, landmarks)
            if close_up is None:
                break
            landmarks, score, roll = close_up
            if abs(roll) < 8:
                break
        return landmarks, score

    def _upright(self, frame: Frame, face: Face) -> NDArray[np.float32]:
        """(5, 2) landmarks of a face in the one of eight turns of its box in which a face scores best.

        On its side or upside down a face is found too, but with the landmarks of an upright one.
        """
        x, y, w, h = face.box
        side = 0.9 * max(w, h)
        points = (FRONTAL_LANDMARKS - 0.5) * np.array([0.8 * side, side], np.float32)
        turns = [cv2.getRotationMatrix2D((0, 0), 45.0 * turn, 1.0)[:, :2].astype(np.float32) for turn in range(8)]
        middle = np.array([x + w / 2, y + h / 2], np.float32)
        close_ups = [
            self._close_up(frame, (points @ turn.T + middle).astype(np.float32), TURNED_SIZE) for turn in turns
        ]
        best = sorted((close_up for close_up in close_ups if close_up), key=lambda close_up: -close_up[1])[:2]
        again = [closer for landmarks, *_ in best if (closer := self._close_up(frame, landmarks, TURNED_SIZE))]
        return max(again, key=lambda close_up: close_up[1])[0] if again else face.five

    def _close_up(
        self, frame: Frame, landmarks: NDArray[np.float32], size: int = CLOSE_UP_SIZE
    ) -> tuple[NDArray[np.float32], float, float] | None:
        """(5, 2) landmarks found in the crop that landmarks align, their score, and the roll in it, in degrees."""
        candidates = self._candidates(frame.align(landmarks, size))
        if not len(candidates):
            return None
        best = candidates[candidates[:, 14].argmax()]
        points = best[4:14].reshape(5, 2)
        back = cv2.invertAffineTransform(crop_matrix(landmarks, size))
        across, down = points[1] - points[0]
        roll = float(np.degrees(np.arctan2(down, across)))
        return transform(back, points).astype(np.float32), float(best[14]), roll

    def _search_tiles(self, frame: Frame, scale: float) -> NDArray[np.float32]:
        """(n, 15) candidates of a frame resized by `scale`, cut in tiles if it is large, in pixels of the frame."""
        parts = []
        columns, rows = (_tiles(side, scale) for side in (frame.width, frame.height))
        for (left, right), (top, bottom) in product(columns, rows):
            pixels, (x, y, w, h) = frame.region((left, top, right, bottom), scale)
            part = self._candidates(pixels)
            part[:, :14] *= np.tile([w / pixels.shape[1], h / pixels.shape[0]], 7)
            part[:, :14] += np.r_[x, y, 0, 0, np.tile([x, y], 5)]
            # What a border between tiles cuts is whole in the next tile.
            end, edge = part[:, :2] + part[:, 2:4], 2 / scale
            cut = (x > 0) & (part[:, 0] < x + edge) | (y > 0) & (part[:, 1] < y + edge)
            cut |= (x + w < frame.width - 1) & (end[:, 0] > x + w - edge)
            cut |= (y + h < frame.height - 1) & (end[:, 1] > y + h - edge)
            parts.append(part[~cut])
        return np.concatenate(parts)

    def _candidates(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, 15) left, top, width, height, landmarks and score of all candidates in an image, in its pixels."""
        height, width = pixels.shape[:2]
        small = cv2.copyMakeBorder(pixels, 0, -height % 32, 0, -width % 32, cv2.BORDER_CONSTANT)
        blob = cv2.dnn.blobFromImage(small, swapRB=True)
        outputs = iter(self._session.run(self._outputs, {"input": blob}))
        candidates = []
        for stride, class_score, object_score, box, points in zip(
            STRIDES, outputs, outputs, outputs, outputs, strict=True
        ):
            score = np.sqrt(class_score[0, :, 0].clip(0, 1) * object_score[0, :, 0].clip(0, 1))
            cells = np.flatnonzero(score > LOWEST)
            corner = np.stack(np.divmod(cells, small.shape[1] // stride)[::-1], 1).astype(np.float32)
            extent = np.exp(box[0, cells, 2:])
            left_top = corner + box[0, cells, :2] - extent / 2
            landmarks = np.tile(corner, 5) + points[0, cells]
            candidates.append(np.c_[np.c_[left_top, extent, landmarks] * stride, score[cells]])
        return np.concatenate(candidates)


def _are_of_one_face(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether two sets of landmarks (5, 2) are of one face: a part of it, in a tile, leads to the same landmarks."""
    return bool(np.linalg.norm(a - b, axis=1).mean() < 0.25 * np.linalg.norm(b[0] - b[1]))


def _turned_back(face: Face, width: int) -> Face:
    """A face of an image that was turned counter-clockwise, in the image itself, of a width in pixels."""
    (x, y, w, h), points = face.box, face.five
    return Face((width - y - h, x, h, w), np.c_[width - 1 - points[:, 1], points[:, 0]], face.score)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    w, h = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(0.0, w) * max(0.0, h)
    return shared / max(1e-9, a[2] * a[3] + b[2] * b[3] - shared)


def _tiles(side: int, scale: float) -> list[tuple[float, float]]:
    """Begin and end, in pixels, of the tiles along a side that is searched at `scale`."""
    tile, shared = _TILE / scale, _OVERLAP / scale
    if side <= 1.5 * tile:
        return [(0, side)]
    starts = np.linspace(0, side - tile, int(np.ceil((side - shared) / (tile - shared))))
    return [(float(start), float(start + tile)) for start in starts]
