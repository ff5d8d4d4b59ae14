"""Pose, light and camera of one picture, and what the camera does to the light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.render.model import Floats, f32
from triaffect.render.props import FIXED, fixed


@dataclass
class Light:
    """A distant light.

    Attributes:
        direction: Unit vector from the head to the light, in camera axes (x right, y up, z to the camera).
        colour: Linear RGB.
        softness: Half-angle of the light as seen from the face, as a tangent; wide lights throw soft shadows.
    """

    direction: Floats
    colour: Floats
    softness: float = 0.15


@dataclass
class Scene:
    """Everything about one picture except the person.

    Attributes:
        weights: (S,) expression-shape weights.
        furrows: Furrow name -> depth for the left and the right side.
        head_pose: Yaw, pitch and roll of the head in radians.
        gaze: Yaw and pitch of the eyes against the head in radians.
        distance: Camera to head in model units.
        zoom: Size of the face against the aligned template.
        shift: Offset of the crop as a part of its side.
        tilt: Rotation of the crop in radians, as a detector leaves it.
        lights: One to three.
        ambient: Linear RGB from above and from below, (2, 3).
        exposure: Brightness factor after metering on the face.
        background: (h, w, 3) linear RGB, any size.
        occluder: Arguments of `draw_occluder`, or None.
        blur: Standard deviation in pixels of a 112 px crop.
        motion: Length and angle of motion blur, in pixels and radians.
        low: Size of the face in the video before the crop was scaled up, as a part of the crop, or 0.
        noise: Standard deviation of sensor noise in grey levels.
        white: Per-channel gain.
        grey: Whether the picture is without colour.
        quality: JPEG quality.
    """

    weights: Floats
    furrows: dict[str, tuple[float, float]] = field(default_factory=dict)
    head_pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gaze: tuple[float, float] = (0.0, 0.0)
    distance: float = 80.0
    zoom: float = 0.85
    shift: tuple[float, float] = (0.0, 0.0)
    tilt: float = 0.0
    lights: list[Light] = field(default_factory=list)
    ambient: Floats = field(default_factory=lambda: f32([[0.35, 0.36, 0.38], [0.22, 0.2, 0.19]]))
    exposure: float = 1.0
    background: Floats = field(default_factory=lambda: np.full((2, 2, 3), 0.35, np.float32))
    occluder: dict[str, Any] | None = None
    blur: float = 0.0
    motion: tuple[float, float] = (0.0, 0.0)
    low: float = 0.0
    noise: float = 0.0
    white: Floats = field(default_factory=lambda: np.ones(3, np.float32))
    grey: bool = False
    quality: int = 90


def rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """(3, 3) head to camera: roll, then pitch (positive looks up), then yaw (positive looks to the picture's right)."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return f32(about_y @ about_x @ about_z)


def develop(picture: Floats, scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply the camera to the light: tone curve, low resolution, blur, noise.

    Args:
        picture: (s, s, 3) linear RGB, s a multiple of `size`.
        scene: Its camera settings.
        size: Side of the result.
        rng: Source of the noise.

    Returns:
        (size, size, 3) RGB.
    """
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) * scene.white
    small = np.clip(small, 0, 4)
    # A soft shoulder keeps highlights from clipping.
    small = np.where(small > 0.7, 0.7 + 0.3 * np.tanh((small - 0.7) / 0.45), small)
    encoded = f32(small ** (1 / 2.2) * 255)
    if scene.grey:
        encoded[:] = encoded @ f32([[0.299], [0.587], [0.114]])
    if scene.low:
        fewer = max(round(scene.low * size), 8)
        encoded = cv2.resize(encoded, (fewer, fewer), interpolation=cv2.INTER_AREA)
        encoded = cv2.resize(encoded, (size, size), interpolation=cv2.INTER_CUBIC)
    if scene.blur > 0.2:
        encoded = cv2.GaussianBlur(encoded, (0, 0), scene.blur * size / 112)
    length, angle = scene.motion
    if length > 1:
        reach = int(np.ceil(length / 2))
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        offset = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        cv2.line(kernel, fixed(reach - offset), fixed(reach + offset), 1.0, 1, cv2.LINE_AA, FIXED)
        kernel = np.maximum(kernel, 1e-6)
        encoded = cv2.filter2D(encoded, -1, kernel / kernel.sum())
    if scene.noise > 0:
        grain = rng.standard_normal((size, size, 4), dtype=np.float32)
        encoded = encoded + scene.noise * (0.8 * grain[..., :1] + 0.5 * grain[..., 1:])
    return np.clip(np.round(encoded), 0, 255).astype(np.uint8)
