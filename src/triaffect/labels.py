"""Tasks, classes, action units, their order and names, and the columns of every table.

All of triaffect uses these tuples; their order is that of the official annotation files.
"""

from __future__ import annotations

TASKS = ("va", "expr", "au")
"""The three descriptors: valence-arousal, expression, action units."""

TASK_NAMES = {"va": "valence-arousal", "expr": "expression", "au": "action units"}

VA = ("valence", "arousal")
"""Both in [-1, 1]."""

EXPRESSIONS = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
"""The eight classes; the position is the code 0..7 of the annotation files."""

ACTION_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26")
"""The twelve action units (occurrence, 0 or 1)."""

ACTIVE = 0.5
"""Probability from which an action unit is active, unless thresholds were tuned."""

AU_NAMES = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
}

SPLITS = ("train", "val", "test")

KEY_COLUMNS = ("image", "video", "frame", "split", "exists")
"""Index columns before the labels: key, source video, 1-based frame number, split, whether the crop is on disk."""

LABEL_COLUMNS = {"va": VA, "expr": ("expression",), "au": ACTION_UNITS}
"""Index columns of each task's labels; null is missing."""

PREDICTION_COLUMNS = {"va": VA, "expr": tuple(name.lower() for name in EXPRESSIONS), "au": ACTION_UNITS}
"""Predictions-file columns of each task: V/A in [-1, 1], then probabilities in [0, 1]."""

INTENSITY_COLUMNS = tuple(f"{unit}_intensity" for unit in ACTION_UNITS)
"""How strong each action unit is, from 0 (absent) to 1 (the strongest that the renderer draws)."""

INDEX_COLUMNS = KEY_COLUMNS + VA + ("expression",) + ACTION_UNITS

OUTPUTS = {task: len(columns) for task, columns in PREDICTION_COLUMNS.items()}
"""Width of each task's raw output: 2, 8 and 12."""


def loss_key(split: str, task: str | None = None) -> str:
    """Name of a loss in `metrics.csv`: `train/loss` is the weighted sum, `train/loss_va` one task's."""
    return f"{split}/loss_{task}" if task else f"{split}/loss"


def score_key(name: str, split: str = "val") -> str:
    """Name of a score in `metrics.csv`: a task, `total`, `valence`, `arousal` or `accuracy`, such as `val/total`."""
    return f"{split}/{name}"
