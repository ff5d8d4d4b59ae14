"""How far a face can be trusted: its size, pose and blur, and flags (benchmarks/quality.py shows where they begin)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, resize
from triaffect.inference.detect import Face

# Five landmarks of a head in units of the distance between the eyes; x to the right of the image, y down, z towards the
# camera: those of the template, with the depth of ICT-FaceKit's mean head.
HEAD = np.c_[TEMPLATE / np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]), [-0.177, -0.177, 0.413, -0.029, -0.029]]
_SOLVE = np.linalg.pinv(HEAD - HEAD.mean(0))

SMALL = 8.0
"""Pixels between the eyes below which a face is flagged `small`."""
TURNED = 40.0
"""Degrees of yaw from which it is flagged `turned`."""
BLURRED = 4.0
"""Blur, in pixels of a 112 px crop, from which it is flagged `blurred`."""
UNSURE = 0.88
"""Score of the detector below which it is flagged `unsure`; there the error of the landmarks has doubled."""
DARK, OVEREXPOSED = 0.07, 0.92
"""Mean brightness of the face, 0 to 1, below and above which it is flagged `dark` and `overexposed`."""

_BLUR_SCALES = (1.0, 3.0)


def quality(face: Face, crop: NDArray[np.uint8]) -> dict[str, Any]:
    """Measure one face.

    Args:
        face: A detected face.
        crop: Its aligned crop, RGB (s, s, 3).

    Returns:
        `size`: pixels between the eyes, as if the face looked at the camera; `yaw`: degrees, positive to the right of
        the image; `roll`: degrees, positive if the head leans to the right of the image; both None without landmarks
        (pitch hardly moves five landmarks and is not measured); `blur`: standard deviation in pixels of a 112 px crop;
        `brightness`: mean of the face, 0 (black) to 1 (white); `quality_flags`: those of small, turned, blurred, dark,
        overexposed and unsure that apply, joined by commas, or "".
    """
    size, yaw, roll = pose(face.five)
    if face.landmarks is None:
        yaw = roll = None
    sigma, light = blur(crop), brightness(crop)
    flags = {
        "small": size < SMALL,
        "turned": yaw is not None and abs(yaw) > TURNED,
        "blurred": sigma > BLURRED,
        "dark": light < DARK,
        "overexposed": light > OVEREXPOSED,
        "unsure": face.score < UNSURE,
    }
    names = ",".join(name for name, applies in flags.items() if applies)
    return {"size": size, "yaw": yaw, "roll": roll, "blur": sigma, "brightness": light, "quality_flags": names}


def pose(landmarks: NDArray[np.floating]) -> tuple[float, float | None, float | None]:
    """Size, yaw and roll from five landmarks (5, 2): the mean head under scaled orthography, by least squares."""
    across, down = _SOLVE.dot(landmarks - landmarks.mean(0)).T
    # Two rows of the rotation, times the scale; their product is the third: the direction of the camera.
    (ax, ay, az), (dx, dy, dz) = across.tolist(), down.tolist()
    forward = np.array([ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx])  # np.cross takes ten times as long
    yaw = np.degrees(np.arcsin(-forward[0] / np.linalg.norm(forward)))
    roll = np.degrees(np.arctan2(landmarks[1, 1] - landmarks[0, 1], landmarks[1, 0] - landmarks[0, 0]))
    return float(np.sqrt(np.linalg.norm(forward))), float(yaw), float(roll)


def blur(crop: NDArray[np.uint8]) -> float:
    """Standard deviation of the blur of a crop (s, s, 3), in pixels of a 112 px crop.

    Images have about the same energy in every octave. Of an image blurred by σ, a Laplacian at scale s keeps
    1 / (s² + σ²)² of it, so the ratio of two scales gives σ, whatever the contrast.
    """
    grey: Any = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    grey = resize(grey, 112).astype(np.float32)
    edges = (cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), scale), cv2.CV_32F) for scale in _BLUR_SCALES)
    fine, coarse = (cv2.meanStdDev(edge[8:-8, 8:-8])[1].item() for edge in edges)
    low, high = (scale**2 for scale in _BLUR_SCALES)
    ratio = np.clip(fine / max(coarse, 1e-3), 1.01, high / low)  # of an even image both are rounding errors
    return float(np.sqrt((high - low * ratio) / (ratio - 1)))


def brightness(crop: NDArray[np.uint8]) -> float:
    """Mean brightness of the face in a crop (s, s, 3), without its corners, 0 to 1."""
    edge = len(crop) // 7
    red, green, blue, _ = cv2.mean(crop[edge : len(crop) - edge, edge : len(crop) - edge])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
