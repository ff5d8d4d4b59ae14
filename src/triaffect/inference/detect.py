"""Faces in a picture: where they are, and the crop of one that the models know."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, align, similarity
from triaffect.inference.runtimes import import_onnxruntime
from triaffect.io import InputError

WEIGHTS = "weights/face_detection_yunet_2023mar.onnx"
SIDE = 320
"""Side of the canvas that YuNet always searches: it finds faces from about 1/14 of the picture's longer side to all."""

TINY = 192
"""Smaller pictures are enlarged to this side: faces of 48 pixels that fill their picture are then found."""

CLOSE = 256
"""Side of the crop for a second look at each face, which fills it."""

FIVE = np.array([(0.31, 0.40), (0.69, 0.40), (0.50, 0.59), (0.34, 0.77), (0.66, 0.77)], np.float32)
"""Where the landmarks lie in the box of a face that looks at the camera, as parts of its width and height."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face found in a picture.

    Attributes:
        box: Left, top, width and height in pixels; it may reach over the picture's border.
        landmarks: (5, 2) pixels in the order of `pictures.TEMPLATE` (eye on the picture's left, eye on its right, tip
            of the nose, corners of the mouth), or None where the detector tells none.
        score: The detector's, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32] | None
    score: float

    @property
    def five(self) -> NDArray[np.float32]:
        """(5, 2) landmarks, or where the box says that they are."""
        if self.landmarks is not None:
            return self.landmarks
        x, y, w, h = self.box
        return FIVE * np.array([w, h], np.float32) + np.array([x, y], np.float32)


class Detector(Protocol):
    """Anything that finds faces."""

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB picture (height, width, 3), the best score first."""


def detector(name: str = "yunet", side: int = SIDE) -> Detector:
    """Makes a detector.

    Args:
        name: yunet.
        side: The longer side that a picture is shrunk to before the search: 320 for video, more to find smaller faces.

    Raises:
        InputError: There is no such detector.
    """
    if name != "yunet":
        raise InputError(f"{name!r}: no such detector; the one that ships is yunet")
    return YuNet(side)


def crop(pixels: NDArray[np.uint8], face: Face, size: int) -> NDArray[np.uint8]:
    """The aligned crop (size, size, 3) of a face: by its landmarks, or by where its box says that they are."""
    return align(pixels, face.five, size)


class YuNet:
    """The detector that ships with the package (Wu, Peng and Yu 2023): five landmarks, 75,856 parameters.

    It knows faces of 20 to 300 pixels, so a picture larger than 640 is searched at `SIDE` as well, for the faces
    that fill it. Landmarks of faces under 150 pixels hardly follow the head's roll and turn, so each face is looked at
    again from near (benchmarks/detectors.py shows what that gains). ONNX Runtime takes half the time of
    cv2.FaceDetectorYN; the arithmetic is that class's.

    Args:
        side: As in `detector`.
        threshold: The lowest score that is a face.
    """

    def __init__(self, side: int = SIDE, threshold: float = 0.5) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # A frame leaves the other cores to what decodes the next one; a photo has them all.
        options.intra_op_num_threads = 1 if side <= SIDE else 0
        options.log_severity_level = 3  # the file's output shapes are those of 640 x 640; others are no error
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = resources.files("triaffect.inference").joinpath(WEIGHTS).read_bytes()
        # No weight depends on the input's 640 x 640: the two numbers become names, which any multiple of 32 may take.
        model = model.replace(b"\x0a\x03\x08\x80\x05" * 2, b"\x0a\x03\x12\x01h\x0a\x03\x12\x01w")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [f"{part}_{stride}" for stride in STRIDES for part in ("cls", "obj", "bbox", "kps")]
        self.side, self.threshold = side, threshold

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB picture (height, width, 3), the best score first.

        Raises:
            InputError: The array is no such picture.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise InputError(f"{pixels.dtype} {pixels.shape}: not a picture; give uint8 RGB (height, width, 3)")
        # Only what is tiny is enlarged. At 640 pixels a face that fills the picture is still found, at more it is not.
        side = min(self.side, max(TINY, *pixels.shape[:2]))
        sides = (side, SIDE) if side > 640 else (side,)
        found = np.concatenate([self._search(pixels, side) for side in sides])
        best = cv2.dnn.NMSBoxes(found[:, :4].tolist(), found[:, 14].tolist(), self.threshold, 0.3)
        return [
            Face((*map(float, row[:4]),), self._closer(pixels, row[4:14].reshape(5, 2)), float(row[14]))  # type: ignore[arg-type]
            for row in found[np.asarray(best, int)]
        ]

    def _closer(self, pixels: NDArray[np.uint8], five: NDArray[np.float32]) -> NDArray[np.float32]:
        """(5, 2) landmarks found again in the crop that `five` align, until that crop stands upright."""
        for _ in range(3):
            near = self._search(align(pixels, five, CLOSE), CLOSE)
            if not len(near):
                break
            back = cv2.invertAffineTransform(similarity(five, (TEMPLATE + 0.5) * (CLOSE / 112) - 0.5))
            found = near[near[:, 14].argmax(), 4:14].reshape(5, 2)
            five = (found @ back[:, :2].T + back[:, 2]).astype(np.float32)
            across, down = found[1] - found[0]
            if abs(down) < 0.14 * across:  # 8 degrees
                break
        return five

    def _search(self, pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
        """(n, 15) left, top, width, height, landmarks and score of all candidates, in the picture's pixels."""
        height, width = pixels.shape[:2]
        shrink = side / max(height, width)
        w, h = max(1, round(width * shrink)), max(1, round(height * shrink))
        how = cv2.INTER_AREA if shrink < 1 else cv2.INTER_LINEAR
        small = pixels if shrink == 1 else cv2.resize(pixels, (w, h), interpolation=how)
        small = cv2.copyMakeBorder(small, 0, -h % 32, 0, -w % 32, cv2.BORDER_CONSTANT)
        blob = cv2.dnn.blobFromImage(small, swapRB=True)
        outputs = iter(self._session.run(self._names, {"input": blob}))
        found = []
        for stride, kind, there, box, marks in zip(STRIDES, outputs, outputs, outputs, outputs, strict=True):
            score = np.sqrt(kind[0, :, 0].clip(0, 1) * there[0, :, 0].clip(0, 1))
            at = np.flatnonzero(score > self.threshold)
            cell = np.stack(np.divmod(at, small.shape[1] // stride)[::-1], 1).astype(np.float32)
            extent = np.exp(box[0, at, 2:])
            corner = cell + box[0, at, :2] - extent / 2
            points = np.tile(cell, 5) + marks[0, at]
            found.append(np.c_[np.c_[corner, extent, points] * stride, score[at]])
        rows = np.concatenate(found)
        rows[:, :14] /= np.tile([w / width, h / height], 7)
        return rows


STRIDES = (8, 16, 32)
