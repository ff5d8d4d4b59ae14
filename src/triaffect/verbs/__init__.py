"""What `triaffect VERB` does: one thin function a verb, its signature the options, its docstring the help.

Heavy imports stay inside the functions, so that a verb loads only what it needs.
"""

from triaffect.verbs.data import index, leaks, pack, render, sample, show, stats
from triaffect.verbs.judging import fuse, score, submit, tune
from triaffect.verbs.making import demo, export, features, predict, report, study, train
from triaffect.verbs.using import analyze, page

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
