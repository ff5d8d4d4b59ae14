"""The whole way on the bundled sample: from raw annotations to scores, fusion and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from triaffect.data.index import read_annotations, save_index
from triaffect.data.sample import sample
from triaffect.data.statistics import leak_lines, statistics, summary
from triaffect.report.figures import contact_sheet, save_figure, statistics_figures
from triaffect.report.results import StudyResults
from triaffect.study.study import run_study


def run_demo(
    out: str | Path = "demo", changes: Sequence[str] = (), progress: Callable[[str], None] = lambda line: None
) -> StudyResults:
    """Copy the sample, index it, draw its statistics and some crops, and run a study on it.

    A demo that was stopped is continued.

    Args:
        out: Folder of everything: `sample/`, `index.parquet`, `pictures/`, `study/`.
        changes: `key=value` pairs that replace keys of the study.
        progress: Called with the statistics, the plan and a line per step.

    Returns:
        The results of the study.
    """
    folder = Path(out)
    tree = sample(folder / "sample")
    reading = read_annotations(tree)
    index = folder / "index.parquet"
    save_index(reading.index, index, root=tree, images=reading.images, format=reading.format)
    counts = statistics(reading.index)
    progress(summary(counts))
    for line in reading.notice_lines() + leak_lines(reading.index):
        progress(f"note: {line}")
    pictures = folder / "pictures"
    figures = {**statistics_figures(counts), "crops": contact_sheet(reading.index, tree / "cropped_aligned", seed=0)}
    for name, figure in figures.items():
        save_figure(figure, pictures / f"{name}.png")
    progress(f"{pictures}: {', '.join(figures)}\n")
    images, jobs = str(tree / "cropped_aligned"), min(2, os.cpu_count() or 1)  # each run uses one thread
    return run_study("demo", str(index), images, folder / "study", changes=changes, jobs=jobs, progress=progress)
