"""How far a face can be trusted: its size, turn, roll and blur, and words of doubt (shown by benchmarks/quality.py)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, fit
from triaffect.inference.detect import Face

# Five landmarks of a head, unit: the eyes' distance; x to the picture's right, y down, z to us: those of the template,
# in the depth that the mean head of ICT-FaceKit has.
HEAD = np.c_[TEMPLATE / np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]), [-0.177, -0.177, 0.413, -0.029, -0.029]]
_SOLVE = np.linalg.pinv(HEAD - HEAD.mean(0))

SMALL, TURNED, BLURRED, UNSURE = 16.0, 40.0, 2.5, 0.8
"""From where on a face is doubted: pixels between the eyes, degrees, pixels of a 112 px crop, the detector's score."""


def quality(face: Face, crop: NDArray[np.uint8]) -> dict[str, Any]:
    """Measures one face.

    Args:
        face: As found; size and score are of it, and turn and roll where it has landmarks.
        crop: (s, s, 3) RGB, its aligned crop.

    Returns:
        `size`: pixels between the eyes, as if the face looked at the camera; `turn`: degrees of yaw, positive to the
        picture's right (pitch hardly moves a detector's five landmarks and is not told); `roll`: degrees, positive
        where the head leans to the picture's right; both None without landmarks; `blur`: standard deviation in pixels
        of a crop of 112; `score`; `doubt`: "" or those of the words small, turned, blurred and unsure that apply,
        joined by commas.
    """
    size, turn, roll = pose(face.five)
    if face.landmarks is None:
        turn = roll = None
    soft = blur(crop)
    doubts = {
        "small": size < SMALL,
        "turned": turn is not None and abs(turn) > TURNED,
        "blurred": soft > BLURRED,
        "unsure": face.score < UNSURE,
    }
    words = ",".join(word for word, holds in doubts.items() if holds)
    return {"size": size, "turn": turn, "roll": roll, "blur": soft, "score": face.score, "doubt": words}


def pose(five: NDArray[np.floating]) -> tuple[float, float | None, float | None]:
    """Size, turn and roll of five landmarks (5, 2): the mean head under scaled orthography, by least squares."""
    across, down = _SOLVE.dot(five - five.mean(0)).T
    # Two rows of the rotation, times the scale; their product is the third, where the camera stands for the head.
    out = np.cross(across, down)
    turn = np.degrees(np.arcsin(-out[0] / np.linalg.norm(out)))
    roll = np.degrees(np.arctan2(five[1, 1] - five[0, 1], five[1, 0] - five[0, 0]))
    return float(np.sqrt(np.linalg.norm(out))), float(turn), float(roll)


def blur(crop: NDArray[np.uint8]) -> float:
    """Standard deviation of the blur of a crop (s, s, 3), in pixels of a crop of 112.

    Pictures have about the same energy in every octave. Of a picture blurred by σ, a Laplacian at scale s keeps
    1 / (s² + σ²)² of that, so the ratio of two scales tells σ, whatever the contrast.
    """
    grey = cv2.cvtColor(fit(crop, 112), cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, coarse = (
        float(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), scale), cv2.CV_32F)[8:-8, 8:-8].std()) for scale in SCALES
    )
    low, high = (scale**2 for scale in SCALES)
    ratio = np.clip(fine / max(coarse, 1e-6), 1.01, high / low)
    return float(np.sqrt((high - low * ratio) / (ratio - 1)))


SCALES = (1.0, 3.0)
