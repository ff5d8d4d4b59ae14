"""What a movement does to the face: mesh shapes, furrows, valence and arousal (the table is movements.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from triaffect.io import InputError
from triaffect.render.model import FaceModel, Floats, f32

MOVEMENTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("movements.yaml").read_text("utf-8"))
"""Movement -> its `shapes`, and where it has them, `furrows` and `va`."""


class Actions:
    """Shape weights and furrow depths from intensities, for one face model."""

    def __init__(self, model: FaceModel) -> None:
        """Find the shapes of every movement.

        Raises:
            InputError: The model lacks a shape that a movement needs.
        """
        self.rows: dict[str, Floats] = {}
        for movement, effects in MOVEMENTS.items():
            row = np.zeros((2, len(model.names)), np.float32)
            for stem, weight in effects["shapes"].items():
                for side, name in enumerate((f"{stem}_L", f"{stem}_R")):
                    if name in model.columns:
                        row[side, model.columns[name]] = weight
                    elif stem in model.columns:
                        row[side, model.columns[stem]] = weight / 2
                    else:
                        raise InputError(f"the face model has no shape {stem}; use the whole ICT-FaceKit")
            self.rows[movement] = row
        marks, columns = model.landmarks, model.columns
        self._lip_gap = (model.shapes[:, marks[61:64], 1] - model.shapes[:, marks[[67, 66, 65]], 1]).mean(1)
        self._seal = [columns[name] for name in ("jawOpen", "mouthShrugLower")]
        self._lids = [[columns[f"{name}_{side}"] for side in "LR"] for name in ("eyeBlink", "eyeSquint")]
        self._look = {
            way: [row for name, row in columns.items() if name.startswith(f"eyeLook{way}_")] for way in ("Up", "Down")
        }

    def pose(
        self, intensities: dict[str, tuple[float, float]], gaze: tuple[float, float] = (0.0, 0.0), depth: float = 1.0
    ) -> tuple[Floats, dict[str, tuple[float, float]]]:
        """Return the shape weights and furrows of a face.

        Args:
            intensities: Movement of `MOVEMENTS` -> intensity in [0, 1] on the person's left and right.
            gaze: Yaw (positive to the picture's right) and pitch (positive up) of the eyes in radians; the lids follow.
            depth: The person's furrow depth.

        Returns:
            (S,) weights, and furrow name -> depth on the left and right.
        """
        weights = np.zeros(next(iter(self.rows.values())).shape[1], np.float32)
        furrows: dict[str, tuple[float, float]] = {}
        for movement, sides in intensities.items():
            weights += f32(sides) @ self.rows[movement]
            for name, part in MOVEMENTS[movement].get("furrows", {}).items():
                before = furrows.get(name, (0.0, 0.0))
                left, right = (b + depth * part * s for b, s in zip(before, sides, strict=True))
                furrows[name] = (left, right)
        # Lips that no movement opens stay shut: the jaw lifts a little, then the lower lip follows.
        opened = sum(intensities.get("AU25", (0, 0))) + sum(intensities.get("AU26", (0, 0)))
        for row, low, high in zip(self._seal, (-0.1, 0.0), (0.0, 0.9), strict=True):
            if self._lip_gap[row]:
                close = np.clip((-0.04 - self._lip_gap @ weights) / self._lip_gap[row], low, high)
                weights[row] += close * np.clip(1 - opened / 0.3, 0, 1)
        lids, squints = self._lids
        # A closed eye cannot also be narrowed.
        weights[squints] *= 1 - np.clip(weights[lids], 0, 1)
        weights[self._look["Up" if gaze[1] > 0 else "Down"]] += abs(gaze[1]) / 0.5
        return weights, furrows
