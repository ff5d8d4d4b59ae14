"""Valence-arousal, expressions and action units from faces: read, train, fuse, score, use.

The names below are imported on first use (PEP 562), so that `import triaffect` is instant and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triaffect.data.index import build_index as build_index
    from triaffect.data.index import find_leaks as find_leaks
    from triaffect.data.index import load_index as load_index
    from triaffect.data.index import read_annotations as read_annotations
    from triaffect.data.index import save_index as save_index
    from triaffect.data.index import save_subset as save_subset
    from triaffect.data.index import subset as subset
    from triaffect.data.predictions import load_predictions as load_predictions
    from triaffect.data.predictions import save_predictions as save_predictions
    from triaffect.data.sample import sample as sample
    from triaffect.data.statistics import statistics as statistics
    from triaffect.data.submission import read_submission as read_submission
    from triaffect.data.submission import write_submission as write_submission
    from triaffect.images import read_image as read_image
    from triaffect.inference.analyze import analyze as analyze
    from triaffect.inference.analyzer import Analyzer as Analyzer
    from triaffect.inference.backends import open_backend as open_backend
    from triaffect.inference.export import export as export
    from triaffect.inference.one_input import AnalyzeOptions as AnalyzeOptions
    from triaffect.inference.predict import predict as predict
    from triaffect.io import InputError as InputError
    from triaffect.labels import ACTION_UNITS as ACTION_UNITS
    from triaffect.labels import EXPRESSIONS as EXPRESSIONS
    from triaffect.labels import TASKS as TASKS
    from triaffect.metrics.fusion import fuse as fuse
    from triaffect.metrics.fusion import tune_fusion as tune_fusion
    from triaffect.metrics.measures import ccc as ccc
    from triaffect.metrics.scores import Scores as Scores
    from triaffect.metrics.scores import compare as compare
    from triaffect.metrics.scores import score as score
    from triaffect.report.figures import contact_sheet as contact_sheet
    from triaffect.report.figures import sample_frames as sample_frames
    from triaffect.report.figures import statistics_figures as statistics_figures
    from triaffect.report.figures import training_curves as training_curves
    from triaffect.report.report import write_report as write_report
    from triaffect.report.results import StudyResults as StudyResults
    from triaffect.study.study import run_study as run_study
    from triaffect.training.config import TrainConfig as TrainConfig
    from triaffect.training.model import AffectModel as AffectModel
    from triaffect.training.model import load_model as load_model
    from triaffect.training.trainer import train as train

__version__ = "0.1.0"

_NAMES = {
    "data.index": "build_index find_leaks load_index read_annotations save_index save_subset subset",
    "data.predictions": "load_predictions save_predictions",
    "data.sample": "sample",
    "data.statistics": "statistics",
    "data.submission": "read_submission write_submission",
    "images": "read_image",
    "inference.analyze": "analyze",
    "inference.analyzer": "Analyzer",
    "inference.backends": "open_backend",
    "inference.export": "export",
    "inference.one_input": "AnalyzeOptions",
    "inference.predict": "predict",
    "io": "InputError",
    "labels": "ACTION_UNITS EXPRESSIONS TASKS",
    "metrics.fusion": "fuse tune_fusion",
    "metrics.measures": "ccc",
    "metrics.scores": "Scores compare score",
    "report.figures": "contact_sheet sample_frames statistics_figures training_curves",
    "report.report": "write_report",
    "report.results": "StudyResults",
    "study.study": "run_study",
    "training.config": "TrainConfig",
    "training.model": "AffectModel load_model",
    "training.trainer": "train",
}
"""Module -> names that it gives to the package."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_MODULES]

if not TYPE_CHECKING:  # a type checker would take every name that this function may return for a real one

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'triaffect' has no attribute {name!r}")
        value = getattr(import_module(f"triaffect.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
