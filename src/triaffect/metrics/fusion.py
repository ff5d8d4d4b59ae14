"""Late fusion: λ·single + (1-λ)·multi as in Chang et al. 2022, weighted means, and λ tuned without leaking."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.predictions import Thresholds, tasks_of, threshold_row
from triaffect.io import InputError
from triaffect.labels import PREDICTION_COLUMNS, TASK_NAMES, TASKS
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import Floats, Sums, bootstrap, source_folds
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index, read_predictions
from triaffect.text import format_number, text_table

Columns = Sequence[NDArray]

DEFAULT_LAMBDAS = {"va": 0.4, "expr": 0.6, "au": 0.6}
"""Chang et al. 2022, section 2: the weight of the single-task prediction."""

RESAMPLES = 500
"""Resamples of the source videos, for the standard error of the difference between two λ."""

SCORES = ("single", "multi", "paper", "cross_fitted", "in_sample")


def fuse(single: Table | Sequence[Table], multi: Table, lambdas: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Fuse single-task with multi-task predictions, p = λ·single + (1-λ)·multi (Chang et al. 2022, section 2).

    Args:
        single: Predictions of single-task models: one table, or several with different tasks.
        multi: Predictions of the multi-task model for the same images.
        lambdas: Task -> λ in [0, 1]; the paper's 0.4 (va) and 0.6 (expr, au) for other tasks.

    Returns:
        Predictions of the tasks of either side, in the row order of `multi`. A task that only one side has is copied.

    Raises:
        InputError: Two single-task tables have the same task, the sides have different images, or λ is out of range.
    """
    tables, names = _sides(single, multi)
    return blend(tables, names, _weights(tables, lambdas))


def mean(predictions: Sequence[Table], weights: Sequence[float] | None = None) -> pl.DataFrame:
    """Average the predictions of any number of models.

    Args:
        predictions: Tables with the same tasks and images.
        weights: One weight per table, not negative; they are divided by their sum. Equal by default.

    Returns:
        Predictions in the row order of the last table.

    Raises:
        InputError: The tables or the weights do not fit each other.
    """
    tables, names = same_tasks(predictions)
    values = np.ones(len(tables)) if weights is None else np.asarray(weights, float)
    if not len(tables) or values.shape != (len(tables),) or not (values >= 0).all() or not 0 < values.sum() < np.inf:
        raise InputError(f"weights: give {len(tables)} numbers, one per predictions table, none negative, one above 0")
    return blend(tables, names, {task: list(values / values.sum()) for task in tasks_of(tables[0])})


def same_tasks(predictions: Sequence[Table]) -> tuple[list[pl.DataFrame], list[str]]:
    """Read predictions that are to be averaged; return the tables and their names.

    Raises:
        InputError: They have different tasks.
    """
    tables, names = [read_predictions(table) for table in predictions], _names(predictions)
    for table, name in zip(tables, names, strict=True):
        if tasks_of(table) != tasks_of(tables[0]):
            here, there = ("+".join(tasks_of(side)) for side in (table, tables[0]))
            raise InputError(f"{name}: has the tasks {here}, {names[0]} has {there}; a mean needs the same tasks")
    return tables, names


@dataclass
class Tuning:
    """Result of `tune_fusion`.

    Attributes:
        lambdas: Task -> λ chosen on all videos; the one to use.
        curves: Columns task, lambda, score: the official score at every λ of the grid.
        scores: Columns task, single, multi, paper, cross_fitted, in_sample: the official score of either side alone,
            with the paper's λ, with λ chosen on the other folds of videos (null with fewer than two source videos), and
            with the best λ on the same frames (too optimistic).
        folds: Number of folds.
    """

    lambdas: dict[str, float]
    curves: pl.DataFrame
    scores: pl.DataFrame
    folds: int

    def table(self) -> str:
        """Format the scores as text."""
        rows = []
        for row in self.scores.to_dicts():
            values = [format_number(row[name]) for name in SCORES]
            rows.append([TASK_NAMES[row["task"]], *values, f"{self.lambdas[row['task']]:.2f}"])
        totals = [None if self.scores[name].null_count() else float(self.scores[name].sum()) for name in SCORES]
        rows.append(["total", *map(format_number, totals), ""])
        head = ["task", "single", "multi", "paper's λ", "tuned λ", "in-sample", "λ to use"]
        note = (
            f"tuned λ: each of {self.folds} folds of videos is scored with the λ chosen on the other folds: the λ\n"
            "nearest to 0.5 whose score is within one standard error (over videos) of the best\n"
            "in-sample: the best λ, scored on the frames that it was chosen on; too optimistic"
        )
        return f"{text_table(head, rows)}\n\n{note}"


def tune_fusion(
    single: Table | Sequence[Table],
    multi: Table,
    index: Table,
    *,
    split: str | None = None,
    grid: Sequence[float] | None = None,
    folds: int = 5,
    thresholds: Thresholds = None,
    seed: int = 0,
    classes: int = 8,
) -> tuple[dict[str, float], Tuning]:
    """Choose each task's λ on labelled videos, and estimate without bias what it is worth.

    Few videos cannot decide between neighbouring λ, and the best on some videos is often poor on others. So the chosen
    λ is the one nearest to 0.5 among those within one standard error of the best (the rule of Breiman et al. 1984,
    Classification and Regression Trees, sec. 3.4.3), where the error is that of the difference to the best in a
    bootstrap over source videos.

    The score to trust is cross-fitted: the source videos are divided into folds, and each fold is fused with the λ
    chosen on the others.

    Args:
        single: As for `fuse`.
        multi: As for `fuse`.
        index: Labels, as for `score`.
        split: Only this split of the index.
        grid: λ to try, each in [0, 1]; 0, 0.05, ... 1 by default.
        folds: Maximum number of folds, at least 2.
        thresholds: Thresholds of AU probabilities, as for `score`.
        seed: Seed of the folds and of the resamples.
        classes: As for `score`.

    Returns:
        λ of each task that both sides and the labels have, and the `Tuning` with curves and scores.

    Raises:
        InputError: As for `fuse` and `score`.
    """
    (*singles, multi_table), _ = _sides(single, multi)
    index, cuts = read_index(index, split, classes), threshold_row(thresholds)
    lambda_grid = np.arange(21) / 20 if grid is None else np.asarray(grid, float)
    if folds < 2 or not lambda_grid.size or not ((lambda_grid >= 0) & (lambda_grid <= 1)).all():
        raise InputError("tune: give at least 2 folds, and λ between 0 and 1")
    index, fold, folds = source_folds(index, folds, seed, least=1)
    by_task = {task: table for table in singles for task in tasks_of(table) if task in tasks_of(multi_table)}
    places = {id(table): locate(table, index) for table in (*singles, multi_table)}
    lambdas, curves, scores = {}, [], []
    for task in common_tasks(tuple(by_task), index):
        single_columns, target, unit = aligned(by_task[task], places[id(by_task[task])], index, task, classes)
        multi_columns, _, _ = aligned(multi_table, places[id(multi_table)], index, task, classes)
        sides = [single_columns, multi_columns]
        lambdas[task], curve, task_scores = _tune_task(task, sides, target, unit, fold, lambda_grid, cuts, seed)
        curves.append(pl.DataFrame({"task": task, "lambda": lambda_grid, "score": curve}))
        scores.append({"task": task, **task_scores})
    schema = {"task": pl.String, **dict.fromkeys(SCORES, pl.Float64)}
    return lambdas, Tuning(lambdas, pl.concat(curves), pl.DataFrame(scores, schema), folds)


def _tune_task(
    task: str,
    sides: Sequence[Columns],
    target: Columns,
    unit: NDArray,
    fold: NDArray,
    grid: Floats,
    cuts: Floats,
    seed: int,
) -> tuple[float, Floats, dict[str, float]]:
    """Choose λ of one task.

    Args:
        task: `va`, `expr` or `au`.
        sides: Single-task and multi-task predictions, (n,) columns each.
        target: (n,) label columns.
        unit: (n,) source video of each frame.
        fold: Fold of each source video.
        grid: λ to try.
        cuts: (12,) thresholds of AU probabilities.
        seed: Seed of the resamples.

    Returns:
        λ chosen on all videos; the score at every λ of the grid; the scores of `Tuning.scores`, `cross_fitted` only
        with two source videos.
    """

    def fused_sums(share: float | Floats, sources: int = 1) -> Floats:
        pred = [share * single + (1 - share) * multi for single, multi in zip(*sides, strict=True)]
        return measures.sums(task, pred, target, unit if sources > 1 else None, sources, cuts)

    def score(sums: Floats) -> Floats:
        return measures.values(task, sums)[..., labelled].mean(-1)

    def measure(drawn: Sums) -> Sums:
        return {"score": score(drawn["fused"])}

    def choose(videos: NDArray[np.bool_]) -> float:
        """Choose λ on some source videos: the nearest to 0.5 within one standard error of the best."""
        curve = score(sums[videos].sum(0))
        best, error = curve.argmax(), np.zeros(len(curve))
        draws = bootstrap({"fused": sums}, measure, resamples=RESAMPLES, seed=seed, units=videos)
        if draws:
            error = (draws["score"] - draws["score"][:, [best]]).std(0)
        near = np.flatnonzero(curve[best] - curve <= error + 1e-12)
        return float(min(grid[near], key=lambda share: abs(share - 0.5)))

    sums = np.stack([fused_sums(share, len(fold)) for share in grid], axis=1)  # (sources, λ, columns, ...)
    labelled = measures.labelled(task, sums[:, 0].sum(0)) > 0
    curve = score(sums.sum(0))
    shares = {"single": 1.0, "multi": 0.0, "paper": DEFAULT_LAMBDAS[task]}
    scores = {name: float(score(fused_sums(share))[0]) for name, share in shares.items()}
    scores["in_sample"] = float(curve.max())
    if len(fold) > 1:
        chosen = np.array([choose(fold != number) for number in range(fold.max() + 1)])
        scores["cross_fitted"] = float(score(fused_sums(chosen[fold[unit]]))[0])
    return choose(np.full(len(fold), True)), curve, scores


@dataclass
class FusedFiles:
    """Result of `fuse_files`.

    Attributes:
        predictions: The fused predictions.
        weights: Task -> file -> its weight; files without the task are left out.
        lambdas: Task -> λ; None for a weighted mean.
        tuning: How λ was chosen, if it was tuned.
    """

    predictions: pl.DataFrame
    weights: dict[str, dict[str, float]]
    lambdas: dict[str, float] | None = None
    tuning: Tuning | None = None


def fuse_files(
    files: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    lambdas: Mapping[str, float] | None = None,
    tune: Table | None = None,
    split: str | None = None,
    seed: int = 0,
) -> FusedFiles:
    """Fuse predictions files by weights, by λ or by tuned λ.

    Args:
        files: Single-task files, then the multi-task file; any files with `weights`.
        weights: As for `mean`; instead of λ.
        lambdas: As for `fuse`.
        tune: Labels to tune λ on, as for `tune_fusion`.
        split: Split of `tune`.
        seed: Seed of `tune`.

    Raises:
        InputError: As `fuse`, `mean` and `tune_fusion`, or more than one way of fusing is given.
    """
    if (weights is not None) + bool(lambdas) + (tune is not None) > 1:
        raise InputError("give weights, λ or an index to tune on, not two of them")
    if len(files) < 2:
        raise InputError(f"{files[0]}: nothing to fuse it with; name single-task files, then the multi-task file")
    if weights is not None:
        predictions = mean(files, weights)
        shares = {str(file): weight / sum(weights) for file, weight in zip(files, weights, strict=True)}
        return FusedFiles(predictions, dict.fromkeys(tasks_of(predictions), shares))
    tables, names = _sides(files[:-1], files[-1])
    tuning = None
    if tune is not None:
        lambdas, tuning = tune_fusion(tables[:-1], tables[-1], tune, split=split, seed=seed)
    rows = _weights(tables, lambdas)
    by_file = {
        task: {name: weight for name, weight in zip(names, row, strict=True) if weight is not None}
        for task, row in rows.items()
    }
    used = {task: 1.0 - (row[-1] or 0.0) for task, row in rows.items()}
    return FusedFiles(blend(tables, names, rows), by_file, used, tuning)


def _weights(tables: Sequence[pl.DataFrame], lambdas: Mapping[str, float] | None) -> dict[str, list[float | None]]:
    """Return task -> the weight of every table, None for those without the task; the multi-task table is the last."""
    chosen = DEFAULT_LAMBDAS | dict(lambdas or {})
    for task, share in chosen.items():
        if task not in TASKS or not 0 <= share <= 1:
            raise InputError(f"λ of {task}: {share} is not between 0 and 1 for one of {', '.join(TASKS)}")
    weights: dict[str, list[float | None]] = {}
    for task in TASKS:
        *single, multi = (task in tasks_of(table) for table in tables)
        share = chosen[task] if multi and any(single) else float(any(single))
        if multi or any(single):
            weights[task] = [*(share if has_task else None for has_task in single), 1 - share if multi else None]
    return weights


def _names(tables: Sequence[Table]) -> list[str]:
    return [f"predictions {i}" if isinstance(t, pl.DataFrame) else os.fspath(t) for i, t in enumerate(tables, 1)]


def _sides(single: Table | Sequence[Table], multi: Table) -> tuple[list[pl.DataFrame], list[str]]:
    """Return the tables and their names, the multi-task table last."""
    singles = [single] if isinstance(single, pl.DataFrame | str | os.PathLike) else list(single)
    if not singles:
        raise InputError("fuse: give at least one single-task predictions table before the multi-task one")
    names = _names([*singles, multi])
    tables = [read_predictions(table) for table in (*singles, multi)]
    for task in TASKS:
        files = [name for name, table in zip(names[:-1], tables[:-1], strict=True) if task in tasks_of(table)]
        if len(files) > 1:
            raise InputError(f"{files[1]}: has {task}, as {files[0]} has; take each task from one single-task file")
    return tables, names


def blend(
    tables: Sequence[pl.DataFrame], names: Sequence[str], weights: Mapping[str, Sequence[float | None]]
) -> pl.DataFrame:
    """Sum up the weighted columns by image, in the order of the last table; None leaves a table out of a task."""
    out = tables[-1].select("image")
    joined = out
    for i, (table, name) in enumerate(zip(tables, names, strict=True)):
        for a, b, a_name, b_name in ((table, out, name, names[-1]), (out, table, names[-1], name)):
            missing = b.join(a, on="image", how="anti")["image"]
            if len(missing):
                first = f"{len(missing)} images of {b_name} (first {', '.join(missing.head(3))})"
                raise InputError(f"{a_name}: lacks {first}; predict the same index")
        numbered = table.rename({c: f"{c}:{i}" for c in table.columns if c != "image"})
        joined = joined.join(numbered, on="image", how="left", maintain_order="left")
    columns = []
    for task, shares in weights.items():
        for c in PREDICTION_COLUMNS[task]:
            parts = [share * pl.col(f"{c}:{i}") for i, share in enumerate(shares) if share is not None]
            total = pl.sum_horizontal(parts, ignore_nulls=False)
            columns.append(total.clip(-1 if task == "va" else 0, 1).alias(c))  # clipped against rounding
    filled = [c for c in joined.columns if c.startswith("filled:")]
    marks = [pl.any_horizontal(pl.col(c).fill_null(False) for c in filled).alias("filled")] if filled else []
    return joined.select("image", *columns, *marks)
