"""What an action unit does to the face: mesh shapes and furrows, each for full intensity."""

from __future__ import annotations

import numpy as np

from triaffect.io import InputError
from triaffect.render.model import FaceModel, Floats, f32

# Movement -> weights of ICT-FaceKit shapes; a stem without side stands for its _L and _R shapes.
SHAPES: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.35, "browOuterUp": 0.12},
    "AU2": {"browOuterUp": 1.15},
    "AU4": {"browDown": 1.45, "eyeSquint": 0.15, "browInnerUp": -0.1},
    "AU6": {"cheekRaiser": 0.8, "cheekSquint": 0.85, "eyeSquint": 0.15},
    "AU7": {"eyeSquint": 1.55, "eyeBlink": 0.14},
    "AU10": {"mouthUpperUp": 1.0, "noseSneer": 0.22},
    "AU12": {"mouthSmile": 1.05, "mouthDimple": 0.15, "cheekSquint": 0.25},
    "AU15": {"mouthFrown": 1.5, "mouthSmile": -0.12},
    "AU23": {"mouthRollLower": 0.42, "mouthRollUpper": 0.45, "mouthPucker": 0.42, "mouthPress": 0.2},
    "AU24": {
        "mouthPress": 1.2,
        "mouthRollLower": 0.4,
        "mouthRollUpper": 0.38,
        "mouthShrugLower": 0.3,
        "mouthDimple": 0.3,
    },
    "AU25": {"mouthLowerDown": 0.75, "mouthUpperUp": 0.3, "jawOpen": 0.1},
    "AU26": {"jawOpen": 0.45},
    # Movements without a label.
    "AU5": {"eyeWide": 1.1},
    "AU9": {"noseSneer": 1.0, "browDown": 0.2, "eyeSquint": 0.3},
    "AU14": {"mouthDimple": 1.0},
    "AU17": {"mouthShrugLower": 0.8, "mouthShrugUpper": 0.1},
    "AU18": {"mouthPucker": 0.9},
    "AU20": {"mouthStretch": 0.9},
    "AU22": {"mouthFunnel": 0.8},
    "AU45": {"eyeBlink": 1.0},
    "cheek puff": {"cheekPuff": 0.7},
    "jaw left": {"jawLeft": 0.8, "mouthLeft": 0.3},
    "jaw right": {"jawRight": 0.8, "mouthRight": 0.3},
    "lip close": {"mouthClose": 0.42},
}

# Movement -> depth of the furrows it draws.
FURROWS: dict[str, dict[str, float]] = {
    "AU1": {"forehead_middle": 1.0},
    "AU2": {"forehead_side": 1.0, "forehead_middle": 0.35},
    "AU4": {"glabella": 1.1},
    "AU6": {"crows_feet": 0.75, "under_eye": 0.7},
    "AU7": {"lower_lid": 1.1},
    "AU9": {"nose_root": 1.0, "wing": 0.5},
    "AU10": {"wing": 1.1},
    "AU12": {"nasolabial": 1.0, "corner": 0.9},
    "AU14": {"corner": 1.0},
    "AU15": {"marionette": 0.7, "chin_fold": 0.25},
    "AU17": {"chin_fold": 0.8},
    "AU18": {"lip_lines": 0.4},
    "AU23": {"lip_lines": 0.35},
    "AU24": {"press_fold": 0.6, "chin_fold": 0.35},
}


class Actions:
    """Turns intensities into shape weights and furrow depths for one face model."""

    def __init__(self, model: FaceModel) -> None:
        """Looks the shapes up.

        Raises:
            InputError: The model lacks a shape that a movement needs.
        """
        self.rows: dict[str, Floats] = {}
        for action, shapes in SHAPES.items():
            row = np.zeros((2, len(model.names)), np.float32)
            for stem, weight in shapes.items():
                for side, name in enumerate((f"{stem}_L", f"{stem}_R")):
                    if name in model.columns:
                        row[side, model.columns[name]] = weight
                    elif stem in model.columns:
                        row[side, model.columns[stem]] = weight / 2
                    else:
                        raise InputError(f"the face model has no shape {stem}; use ICT-FaceKit's, whole")
            self.rows[action] = row
        marks = model.landmarks
        self._gap = (model.shapes[:, marks[61:64], 1] - model.shapes[:, marks[[67, 66, 65]], 1]).mean(1)
        self._seal = [model.columns.get(name) for name in ("jawOpen", "mouthShrugLower")]
        columns = model.columns
        self._lids = [(columns[f"eyeBlink_{side}"], columns[f"eyeSquint_{side}"]) for side in "LR"]
        self.look = {
            way: [model.columns.get(f"eyeLook{way}_{side}") for side in "LR"] for way in ("Up", "Down", "In", "Out")
        }

    def pose(
        self, intensities: dict[str, tuple[float, float]], gaze: tuple[float, float] = (0.0, 0.0), depth: float = 1.0
    ) -> tuple[Floats, dict[str, tuple[float, float]]]:
        """Shape weights and furrows of a face.

        Args:
            intensities: Movement of `SHAPES` -> intensity in [0, 1] on the person's left and right.
            gaze: Yaw (to the picture's right) and pitch (up) of the eyes in radians; the lids follow.
            depth: The person's furrow depth.

        Returns:
            (S,) weights, and furrow name -> depth on the left and right.
        """
        weights = np.zeros(next(iter(self.rows.values())).shape[1], np.float32)
        furrows: dict[str, tuple[float, float]] = {}
        for action, sides in intensities.items():
            weights += f32(sides) @ self.rows[action]
            for name, part in FURROWS.get(action, {}).items():
                before = furrows.get(name, (0.0, 0.0))
                left, right = (b + depth * part * s for b, s in zip(before, sides, strict=True))
                furrows[name] = (left, right)
        # Lips that no part of the pose means to open stay shut: the jaw lifts a little, then the lower lip follows.
        opened = sum(intensities.get("AU25", (0, 0))) + sum(intensities.get("AU26", (0, 0)))
        for row, least, most in zip(self._seal, (-0.1, 0.0), (0.0, 0.9), strict=True):
            if row is not None and self._gap[row]:
                close = np.clip((-0.04 - self._gap @ weights) / self._gap[row], least, most)
                weights[row] += close * np.clip(1 - opened / 0.3, 0, 1)
        for lid, squint in self._lids:
            # A shut eye cannot be narrowed as well.
            weights[squint] *= 1 - np.clip(weights[lid], 0, 1)
        for row in self.look["Up" if gaze[1] > 0 else "Down"]:
            if row is not None:
                weights[row] += abs(gaze[1]) / 0.5
        return weights, furrows

    def gap(self, weights: Floats) -> float:
        """How far a pose opens the lips, in model units."""
        return float(self._gap @ weights)
