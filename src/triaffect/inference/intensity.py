"""How strong an action unit is, read off the probability that it is present.

A model that was calibrated on faces of exact intensity (`examples/base.py calibrate`) has one rising curve per action
unit in its provenance, under `au_intensity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from triaffect.labels import ACTION_UNITS

Curve = Mapping[str, Sequence[float]]
"""`log_odds` and `intensity` of the curve's points, both rising."""


def log_odds(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-odds of probabilities, at most 16 to either side: float32 has no more."""
    p = np.asarray(probability, float).clip(1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def au_intensity(probability: NDArray[np.floating], curves: Mapping[str, Curve]) -> NDArray[np.float32]:
    """Intensities (N, 12) in [0, 1] of probabilities (N, 12), by the curve of each action unit."""
    odds = log_odds(probability)
    columns = [
        np.interp(odds[:, i], curves[unit]["log_odds"], curves[unit]["intensity"])
        for i, unit in enumerate(ACTION_UNITS)
    ]
    return np.stack(columns, 1).astype(np.float32)
