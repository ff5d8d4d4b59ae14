"""What `triaffect VERB` does: one thin function a verb, its signature the options, its docstring the help.

Heavy imports stay inside the functions, so that a verb loads only what it needs.
"""

from triaffect.cli.analysis import analyze, page
from triaffect.cli.data import index, leaks, pack, render, sample, show, stats
from triaffect.cli.evaluation import fuse, score, submit, tune
from triaffect.cli.models import demo, export, features, predict, report, study, train

__all__ = [
    "analyze",
    "demo",
    "export",
    "features",
    "fuse",
    "index",
    "leaks",
    "pack",
    "page",
    "predict",
    "render",
    "report",
    "sample",
    "score",
    "show",
    "stats",
    "study",
    "submit",
    "train",
    "tune",
]
