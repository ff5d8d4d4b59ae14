"""The main job on the bundled sample: from its raw annotations to scores, fusion and a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triaffect.data.index import read_annotations, save_index
from triaffect.data.sample import sample
from triaffect.data.statistics import leak_lines, statistics, summary
from triaffect.report.plots import contact_sheet, save_figure, statistics_figures
from triaffect.study.study import run_study


def run_demo(out: str | Path = "demo", recipe: str = "demo", changes: Sequence[str] = ()) -> dict[str, Any]:
    """Copies the sample out, indexes it, draws its statistics and some crops, and runs a study on it.

    Called again it goes on where it was stopped.

    Args:
        out: The folder of everything: `sample/`, `index.parquet`, `pictures/`, `study/`.
        recipe: What to run.
        changes: `key=value` on top of the recipe.

    Returns:
        The study's results.
    """
    folder = Path(out)
    tree = sample(folder / "sample")
    reading = read_annotations(tree)
    index = folder / "index.parquet"
    save_index(reading.index, index, root=tree, images=reading.images, format=reading.format)
    found = statistics(reading.index)
    print(summary(found))
    for line in reading.notice_lines() + leak_lines(reading.index):
        print(f"note: {line}")
    pictures = folder / "pictures"
    drawn = {**statistics_figures(found), "crops": contact_sheet(reading.index, tree / "cropped_aligned")}
    for name, figure in drawn.items():
        save_figure(figure, pictures / f"{name}.png")
    print(f"{pictures}: {', '.join(drawn)}\n")
    images, jobs = str(tree / "cropped_aligned"), min(2, os.cpu_count() or 1)  # each run keeps one thread busy
    return run_study(recipe, str(index), images, folder / "study", changes=changes, jobs=jobs)
