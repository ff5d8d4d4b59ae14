"""What is done to a training image: one affine warp, one colour matrix, and what a worse camera and a hand would do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Flip, rotation, scale and shift as one warp; brightness, contrast and saturation as one colour matrix.

    Every image of a batch has its own draw. The arguments are those of `config.DataConfig`.
    """

    flip: float
    rotation: float
    scale: float
    shift: float
    jitter: float
    degrade: float = 0.0
    erase: float = 0.0

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a warp (2, 3), from a pixel of the result to one of the image, and a colour matrix (3, 4)."""
        rotation, zoom, right, down = rng.uniform(-1, 1, 4).tolist()
        mirror = -1 if rng.random() < self.flip else 1
        angle, centre, shrink = math.radians(rotation * self.rotation), (size - 1) / 2, 1 / (1 + zoom * self.scale)
        cos, sin = math.cos(angle) * shrink, math.sin(angle) * shrink
        x, y = centre + right * self.shift * size, centre + down * self.shift * size
        warp = np.array(
            [
                [mirror * cos, -mirror * sin, centre - mirror * (cos * x - sin * y)],
                [sin, cos, centre - sin * x - cos * y],
            ]
        )
        bright, contrast, saturation = (1 + rng.uniform(-1, 1, 3) * self.jitter).tolist() if self.jitter else (1, 1, 1)
        colour = np.full((3, 4), bright * contrast * (1 - saturation) / 3)
        colour[:, :3] += bright * contrast * saturation * np.eye(3)
        colour[:, 3] = (1 - contrast) * 127.5
        return warp, colour

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment an image (size, size, 3), uint8; its border is repeated where the warp reads outside of it."""
        size = pixels.shape[0]
        warp, colour = self.draw(rng, size)
        if self.rotation or self.scale or self.shift:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            pixels = cv2.warpAffine(pixels, warp, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        elif warp[0, 0] < 0:
            pixels = pixels[:, ::-1]
        if self.jitter:
            pixels = cv2.transform(pixels, colour)
        if self.degrade and rng.random() < self.degrade:
            pixels = _degrade(pixels, rng)
        if self.erase and rng.random() < self.erase:
            height, width = (rng.uniform(0.1, 0.5, 2) * size).astype(int)
            top, left = rng.integers(0, size - height), rng.integers(0, size - width)
            pixels = np.array(pixels)
            pixels[top : top + height, left : left + width] = rng.integers(0, 256, 3)
        return pixels


def _degrade(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lower resolution, blur, noise, another gamma and coarse JPEG, each with probability 1/2."""
    size = pixels.shape[0]
    shrink, blur, noise, gamma, jpeg = rng.random(5) < 0.5
    if gamma:
        curve = 255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.7, 0.7))
        pixels = cv2.LUT(pixels, curve.astype(np.uint8))
    if shrink:
        side = int(size * rng.uniform(0.3, 0.9))
        pixels = cv2.resize(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), (size, size))
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.2, 1.4) * size / 112)
    if noise:
        values = rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(1, 12)
        pixels = np.clip(pixels + values, 0, 255).astype(np.uint8)
    if jpeg:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), int(rng.integers(20, 90)))
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    return pixels


def augment_batch(pixels: Tensor, warp: Tensor, colour: Tensor) -> Tensor:
    """Apply what `Augmentation.draw` drew to a batch on any device, without rounding between the two steps.

    Args:
        pixels: (N, 3, size, size), uint8.
        warp: (N, 2, 3), from a pixel of the result to one of the image.
        colour: (N, 3, 4), weights of the channels and a constant.
    """
    size, centre = pixels.shape[-1], (pixels.shape[-1] - 1) / 2
    # grid_sample counts from -1 to 1 across the image.
    shift = (warp[:, :, :2].sum(2) * centre + warp[:, :, 2] - centre) / centre
    grid = F.affine_grid(torch.cat([warp[:, :, :2], shift[:, :, None]], 2), list(pixels.shape), align_corners=True)
    warped = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=True)
    mixed = torch.baddbmm(colour[:, :, 3:], colour[:, :, :3], warped.flatten(2)).view(-1, 3, size, size)
    return mixed.round().clamp(0, 255).byte().contiguous(memory_format=torch.channels_last)
