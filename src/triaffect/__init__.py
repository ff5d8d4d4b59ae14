"""Valence-arousal, expressions and action units from faces: read, train, fuse, score, use.

The names below load on first use (PEP 562), so that `import triaffect` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ACTION_UNITS": "labels",
    "EXPRESSIONS": "labels",
    "TASKS": "labels",
    "InputError": "io",
    "build_index": "data.index",
    "load_index": "data.index",
    "find_leaks": "data.index",
    "load_predictions": "data.predictions",
    "save_predictions": "data.predictions",
    "write_submission": "data.submission",
    "read_submission": "data.submission",
    "sample": "data.sample",
    "score": "metrics.scores",
    "ccc": "metrics.scores",
    "fuse": "metrics.fusion",
    "tune_fusion": "metrics.fusion",
    "report": "report.report",
    "AffectModel": "training.model",
    "TrainConfig": "training.config",
    "train": "training.trainer",
    "predict": "inference.predict",
    "export": "inference.export",
    "Analyzer": "inference.analyzer",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'triaffect' has no attribute {name!r}")
    value = getattr(import_module(f"triaffect.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
