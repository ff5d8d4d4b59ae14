"""The files of a challenge: a system's predictions of the organisers' images, in the form of their sample."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from triaffect.data.abaw_text import detect_kind, read_list
from triaffect.data.crops import find_images
from triaffect.data.index import find_leaks, load_index, read_annotations
from triaffect.data.statistics import leak_lines
from triaffect.data.submission import write_submission
from triaffect.io import InputError
from triaffect.metrics.blending import apply_weights
from triaffect.metrics.postprocess import PostProcessing
from triaffect.report.results import SubmissionResult
from triaffect.study.plan import StudyPlan
from triaffect.study.results import Combined, fuse_all, predict_run

FOLDER = "submission"
"""Below the study folder: the file to send, and the predictions that it is made of."""


def leak_notes(plan: StudyPlan, index: str) -> list[str]:
    """Return a line for every two splits that share source videos, and for the organisers' images that do."""
    rows = load_index(index)
    lines = leak_lines(rows)
    if plan.submission is not None and Path(plan.submission.sample).suffix.lower() == ".txt":
        shared = find_leaks(read_list(plan.submission.sample), rows.filter(pl.col("split") != "test"))["source"]
        if len(shared):
            names = ", ".join(shared.head(3))
            lines.append(f"{plan.submission.sample} and the index share {len(shared):,} source videos: {names}")
    return lines


def write(plan: StudyPlan, folder: Path, images: str, combined: Combined) -> SubmissionResult:
    """Predict the organisers' images with every model that the system needs, and write the file to send.

    Post-processing and weights are those fitted on all labelled videos. What was predicted before is not predicted
    again.

    Args:
        plan: The study, with a submission.
        folder: The study folder.
        images: The image root of the study's index, for a plan that names no other.
        combined: What the systems were combined with.

    Raises:
        InputError: A model is missing, or an image is not predicted.
    """
    assert plan.submission is not None
    submission = plan.submission
    root = Path(submission.images or images)
    if not root.is_dir():
        raise InputError(f"submission.images: {root} is no folder; set it to the folder of the sample's images")
    rows = _rows(Path(submission.sample), root)

    def trained(name: str) -> pl.DataFrame:
        path, source = folder / FOLDER / f"{name}.parquet", {"sample": submission.sample}
        return predict_run(folder / "runs" / name, plan.configs[name], rows, root, path, source)

    def predictions(name: str) -> pl.DataFrame:
        if name not in plan.systems:
            return trained(name)
        system = plan.systems[name]
        tables = [predictions(member) for member in system.members]
        if system.kind == "tuned":
            return PostProcessing.load(folder / "post" / f"{name}.json").apply(tables[0])
        if system.kind == "blend":
            return apply_weights(tables, combined.weights[name])
        return fuse_all(tables, combined.lambdas.get(name))

    table = predictions(submission.model)
    file = folder / FOLDER / f"{submission.model}{'' if submission.track.endswith('-videos') else '.txt'}"
    counts = write_submission(table, submission.sample, file, submission.track)
    name = f"{FOLDER}/{file.name}"
    return SubmissionResult(name, submission.model, submission.sample, submission.track, **counts)


def _rows(sample: Path, images: Path) -> pl.DataFrame:
    """The images to predict: those of a sample submission, whatever its columns, of a list, or of listed videos."""
    if sample.suffix.lower() == ".txt" and detect_kind(sample) in ("list", "rows"):
        rows = find_images(read_list(sample).with_columns(exists=True), images)
    else:
        rows = read_annotations(sample, images).index
    return rows.unique("image", keep="first", maintain_order=True)
