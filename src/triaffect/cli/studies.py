"""Verbs for studies: many runs, their report, the demo."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triaffect.report.results import StudyResults


def study(
    study: str,
    index: str = "index.parquet",
    images: str | None = None,
    out: str = "study",
    set: list[str] | None = None,  # noqa: A002
    jobs: int = 1,
    ray: str | None = None,
    search: int = 0,
) -> int:
    """Run a study: train, predict, fuse, score, compare, and write report.html; a stopped study is continued.

    Args:
        study: A YAML file, or the name of a bundled study (chang2022, asim2024, demo ...).
        index: The index that every run reads.
        images: The folder of the images; by default the one the index was made with.
        out: The study folder to make or to continue.
        set: Keys of the study to change, such as base.model.backbone=resnet18 runs.va.training.lr=1e-4.
        jobs: Runs at once, one per GPU if there are several.
        ray: Train on a Ray cluster: auto (the one that this machine is part of), its address, or local.
        search: Total number of trials of the study's hyper-parameter search.
    """
    from triaffect.study.study import run_study

    results = run_study(
        study, index, images, out, changes=set or (), jobs=jobs, ray=ray, search=search, progress=_progress
    )
    return _print_results(results, out)


def report(study: str) -> None:
    """Write the report of a study again: one HTML file with scores, tests, figures and the commands that repeat it.

    Args:
        study: The folder that `triaffect study` made.
    """
    from triaffect.report.report import write_report

    print(write_report(study))


def demo(out: str = "demo", set: list[str] | None = None) -> int:  # noqa: A002
    """Go from the raw annotations of the bundled sample to models, fusion, scores and a report.

    Args:
        out: Folder of everything; a stopped demo is continued.
        set: Keys of the study to change, such as base.training.epochs=3.
    """
    from triaffect.study.demo import run_demo

    return _print_results(run_demo(out, changes=set or (), progress=_progress), f"{out}/study")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_results(results: StudyResults, folder: str) -> int:
    """Print scores, answer and failures of a study; return the exit code."""
    from triaffect.report.report import results_table

    if results.models:
        print(f"{results_table(results)}\n")
    print("\n".join(results.answer))
    for failure in results.failures:
        print(f"failed: {failure.name}: {failure.reason}", file=sys.stderr)
    if sent := results.submission:
        print(f"\n{folder}/{sent.file}: {sent.rows:,} rows as in {sent.sample}, {sent.filled:,} without a crop")
    print(f"\n{folder}/report.html")
    return 1 if results.failures else 0
