"""Find faces in an image, and cut the crop of a face that the models expect."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, align, similarity
from triaffect.inference.backends import import_onnxruntime
from triaffect.io import InputError

WEIGHTS = "weights/face_detection_yunet_2023mar.onnx"

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""The five points in the order of `images.TEMPLATE`; right and left are the person's."""

SEARCH_SIZE = 320
"""Longer side at which every image is searched: faces from about 1/14 of it up to all of it are found."""

MIN_SEARCH_SIZE = 192
"""Smaller images are enlarged to this side: faces of 48 pixels that fill their image are then found."""

CLOSE_UP_SIZE = 256
"""Side of the crop in which the landmarks of each face are found again."""

FRONTAL_LANDMARKS = np.array([(0.31, 0.40), (0.69, 0.40), (0.50, 0.59), (0.34, 0.77), (0.66, 0.77)], np.float32)
"""Landmarks in the box of a face that looks at the camera, as parts of its width and height."""

STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face.

    Attributes:
        box: Left, top, width and height in pixels; it may extend over the border of the image.
        landmarks: (5, 2) pixels in the order of `LANDMARKS`, or None if the detector has none.
        score: Score of the detector, 0 to 1.
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


def open_detector(name: str = "yunet", size: int = SEARCH_SIZE) -> Detector:
    """Load a detector.

    Args:
        name: yunet.
        size: The longer side to which an image is shrunk for the search: 320 for video, more to find smaller faces.

    Raises:
        InputError: There is no such detector.
    """
    if name != "yunet":
        raise InputError(f"detector {name!r}: the one in the package is yunet")
    return YuNet(size)


def crop(pixels: NDArray[np.uint8], face: Face, size: int) -> NDArray[np.uint8]:
    """Cut the aligned crop (size, size, 3) of a face."""
    return align(pixels, face.five, size)


class YuNet:
    """The detector in the package (Wu, Peng and Yu 2023): five landmarks, 75,856 parameters.

    It finds faces of 20 to 300 pixels, so an image larger than 640 is also searched at `SEARCH_SIZE`, for the faces
    that fill it. Landmarks of faces under 150 pixels hardly follow roll and yaw, so each face is searched again in a
    close-up (benchmarks/detectors.py shows the gain). ONNX Runtime takes half the time of cv2.FaceDetectorYN; the
    arithmetic is that class's.

    Args:
        size: As in `open_detector`.
        threshold: The lowest score of a face.
    """

    def __init__(self, size: int = SEARCH_SIZE, threshold: float = 0.5) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # A video leaves the other cores to the decoder of the next frame; a photo may use them all.
        options.intra_op_num_threads = 1 if size <= SEARCH_SIZE else 0
        options.log_severity_level = 3  # the file's output shapes are those of 640 x 640; others are not an error
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = resources.files("triaffect.inference").joinpath(WEIGHTS).read_bytes()
        # No weight depends on the input's 640 x 640: the two numbers become names, for any multiple of 32.
        model = model.replace(b"\x0a\x03\x08\x80\x05" * 2, b"\x0a\x03\x12\x01h\x0a\x03\x12\x01w")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [f"{part}_{stride}" for stride in STRIDES for part in ("cls", "obj", "bbox", "kps")]
        self.size, self.threshold = size, threshold

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of an RGB image (height, width, 3), the best score first.

        Raises:
            InputError: The array is not such an image.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise InputError(f"{pixels.dtype} {pixels.shape}: not an image; give uint8 RGB (height, width, 3)")
        # Only tiny images are enlarged. A face that fills the image is found at 640 pixels, but not at more.
        size = min(self.size, max(MIN_SEARCH_SIZE, *pixels.shape[:2]))
        sizes = (size, SEARCH_SIZE) if size > 640 else (size,)
        candidates = np.concatenate([self._search(pixels, size) for size in sizes])
        best = cv2.dnn.NMSBoxes(candidates[:, :4].tolist(), candidates[:, 14].tolist(), self.threshold, 0.3)
        return [
            Face((*map(float, row[:4]),), self._refine(pixels, row[4:14].reshape(5, 2)), float(row[14]))  # type: ignore[arg-type]
            for row in candidates[np.asarray(best, int)]
        ]

    def _refine(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """(5, 2) landmarks found again in the crop that they align, until that crop is upright."""
        for _ in range(3):
            candidates = self._search(align(pixels, landmarks, CLOSE_UP_SIZE), CLOSE_UP_SIZE)
            if not len(candidates):
                break
            template = (TEMPLATE + 0.5) * (CLOSE_UP_SIZE / 112) - 0.5
            back = cv2.invertAffineTransform(similarity(landmarks, template))
            points = candidates[candidates[:, 14].argmax(), 4:14].reshape(5, 2)
            landmarks = (points @ back[:, :2].T + back[:, 2]).astype(np.float32)
            across, down = points[1] - points[0]
            if abs(down) < 0.14 * across:  # 8 degrees
                break
        return landmarks

    def _search(self, pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        """(n, 15) left, top, width, height, landmarks and score of all candidates, in pixels of the image."""
        height, width = pixels.shape[:2]
        scale = size / max(height, width)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = pixels if scale == 1 else cv2.resize(pixels, (w, h), interpolation=interpolation)
        small = cv2.copyMakeBorder(small, 0, -h % 32, 0, -w % 32, cv2.BORDER_CONSTANT)
        blob = cv2.dnn.blobFromImage(small, swapRB=True)
        outputs = iter(self._session.run(self._outputs, {"input": blob}))
        candidates = []
        for stride, class_score, object_score, box, points in zip(
            STRIDES, outputs, outputs, outputs, outputs, strict=True
        ):
            score = np.sqrt(class_score[0, :, 0].clip(0, 1) * object_score[0, :, 0].clip(0, 1))
            cells = np.flatnonzero(score > self.threshold)
            corner = np.stack(np.divmod(cells, small.shape[1] // stride)[::-1], 1).astype(np.float32)
            extent = np.exp(box[0, cells, 2:])
            left_top = corner + box[0, cells, :2] - extent / 2
            landmarks = np.tile(corner, 5) + points[0, cells]
            candidates.append(np.c_[np.c_[left_top, extent, landmarks] * stride, score[cells]])
        rows = np.concatenate(candidates)
        rows[:, :14] /= np.tile([w / width, h / height], 7)
        return rows
