"""Verbs for studies: many runs, their report, the demo."""

from __future__ import annotations


def study(
    recipe: str,
    index: str = "index.parquet",
    images: str | None = None,
    out: str = "study",
    set: list[str] | None = None,  # noqa: A002
    jobs: int = 1,
    search: int = 0,
) -> int:
    """Runs a recipe: trains, predicts, fuses, scores, compares, and writes report.html; a stopped study goes on.

    Args:
        recipe: A YAML file, or the name of a bundled recipe (chang2022, asim2024, demo ...).
        index: The index that every run reads.
        images: The folder of the images, where the index does not know it.
        out: The study folder to make, or to go on with.
        set: Keys of the recipe to change, such as base.model.backbone=resnet18 runs.va.training.lr=1e-4.
        jobs: Runs at once, each on a GPU of its own where there are several.
        search: Trials of the recipe's hyper-parameter search, in all.
    """
    from triaffect.study.study import run_study

    return 1 if run_study(recipe, index, images, out, changes=set or (), jobs=jobs, search=search)["failures"] else 0


def report(study: str) -> None:
    """Makes the page of a study again: one HTML file with scores, tests, figures and the commands that redo it.

    Args:
        study: The folder that `triaffect study` made.
    """
    from triaffect.report.report import write_report

    print(write_report(study))


def demo(out: str = "demo", set: list[str] | None = None) -> int:  # noqa: A002
    """Goes from the bundled sample's raw annotations to models, fusion, scores and a report; a stopped demo goes on.

    Args:
        out: The folder for everything.
        set: Keys of the recipe to change, such as base.training.epochs=3.
    """
    from triaffect.study.demo import run_demo

    return 1 if run_demo(out, changes=set or ())["failures"] else 0
