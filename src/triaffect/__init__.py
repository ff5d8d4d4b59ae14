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
    "InputError": "files",
    "build_index": "annotations.index",
    "load_index": "annotations.index",
    "find_leaks": "annotations.index",
    "load_predictions": "annotations.predictions",
    "save_predictions": "annotations.predictions",
    "write_submission": "annotations.submission",
    "read_submission": "annotations.submission",
    "sample": "sample",
    "score": "scoring.metrics",
    "ccc": "scoring.metrics",
    "fuse": "scoring.fusion",
    "tune_fusion": "scoring.fusion",
    "report": "scoring.report",
    "AffectModel": "learning.models",
    "TrainConfig": "learning.config",
    "train": "learning.training",
    "predict": "learning.inference",
    "export": "media.export",
    "Analyzer": "media.analyzer",
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
