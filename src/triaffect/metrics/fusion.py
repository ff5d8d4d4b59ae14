"""Late fusion: λ·single + (1-λ)·multi as in Chang et al. 2022, weighted means, and λ tuned without leaking."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import provenance, source_video
from triaffect.data.predictions import Thresholds, save_predictions, tasks_of, threshold_row
from triaffect.io import InputError
from triaffect.labels import PREDICTION_COLUMNS, TASK_NAMES, TASKS
from triaffect.metrics import measures
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index, read_predictions
from triaffect.text import format_number, text_table

Columns = Sequence[NDArray]

DEFAULT_LAMBDAS = {"va": 0.4, "expr": 0.6, "au": 0.6}
"""Chang et al. 2022, section 2: the weight of the single-task prediction."""

RESAMPLES = 500
"""Of the videos, for the standard error of the difference between two λ."""

SCORES = ("single", "multi", "fixed", "cross_fitted", "in_sample")


def fuse(single: Table | Sequence[Table], multi: Table, lambdas: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Fuses single-task with multi-task predictions, p = λ·single + (1-λ)·multi (Chang et al. 2022, section 2).

    Args:
        single: Predictions of single-task models, one table or several that hold a task each.
        multi: Predictions of the multi-task model, of the same images.
        lambdas: λ in [0, 1] of some tasks; the paper's 0.4 (va) and 0.6 (expr, au) for the rest.

    Returns:
        Predictions of the tasks of either side, in the order of `multi`'s rows. A task that only one side holds is
        that side's.

    Raises:
        InputError: A task stands in two single-task tables, the sides hold different images, or λ is out of range.
    """
    tables, names = _sides(single, multi)
    return _blend(tables, names, _shares(tables, lambdas))


def mean(predictions: Sequence[Table], weights: Sequence[float] | None = None) -> pl.DataFrame:
    """Weighted mean of the predictions of any number of models.

    Args:
        predictions: Tables that hold the same tasks and images.
        weights: One of each, not negative; they are divided by their sum. Equal where left out.

    Returns:
        Predictions in the order of the last table's rows.

    Raises:
        InputError: The tables or the weights do not fit each other.
    """
    tables, names = [read_predictions(table) for table in predictions], _names(predictions)
    given = np.ones(len(tables)) if weights is None else np.asarray(weights, float)
    if not len(tables) or given.shape != (len(tables),) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
        raise InputError(f"weights: give {len(tables)} numbers, none negative and one above 0, one a predictions table")
    for table, name in zip(tables, names, strict=True):
        if tasks_of(table) != tasks_of(tables[0]):
            here, there = ("+".join(tasks_of(each)) for each in (table, tables[0]))
            raise InputError(f"{name}: holds {here} where {names[0]} holds {there}; a mean needs the same tasks")
    return _blend(tables, names, {task: list(given / given.sum()) for task in tasks_of(tables[0])})


@dataclass
class Tuning:
    """What `tune_fusion` found.

    Attributes:
        lambdas: Task -> λ chosen on all videos; the one to use from here on.
        curves: Columns task, lambda, score: the official score at every λ of the grid.
        scores: Columns task, single, multi, fixed, cross_fitted, in_sample: the official score of either side alone,
            with the paper's λ, with λ chosen on the other folds of videos (null with fewer than two source videos),
            and the highest at any λ on the very frames it is scored on (flattering).
        folds: Folds used.
    """

    lambdas: dict[str, float]
    curves: pl.DataFrame
    scores: pl.DataFrame
    folds: int

    def table(self) -> str:
        """Aligned text for people."""
        rows = [
            [TASK_NAMES[row["task"]], *(format_number(row[name]) for name in SCORES)] for row in self.scores.to_dicts()
        ]
        rows = [[*row, f"{self.lambdas[task]:.2f}"] for row, task in zip(rows, self.scores["task"], strict=True)]
        totals = [None if self.scores[name].null_count() else float(self.scores[name].sum()) for name in SCORES]
        rows.append(["total", *map(format_number, totals), ""])
        head = ["task", "single", "multi", "paper's λ", "tuned λ", "in-sample", "λ to use"]
        note = (
            f"tuned λ: each of {self.folds} folds of videos scored with the λ chosen on the others: the one nearest\n"
            "the equal mix whose score is within one standard error (over videos) of the best\n"
            "in-sample: the best λ scored on the frames it was found on, which flatters"
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
) -> tuple[dict[str, float], Tuning]:
    """Finds each task's λ on labelled videos and says honestly what it is worth.

    Few videos do not decide between neighbouring λ, and the best on some is often a bad one on others. So the λ chosen
    is the one nearest the equal mix among those within one standard error of the best (the rule of Breiman et al. 1984,
    Classification and Regression Trees, sec. 3.4.3), the error being that of the difference to the best under a
    bootstrap over videos. Many videos, or a clear optimum, leave little but the optimum within it.

    The score to believe is cross-fitted: the videos are dealt into folds (both halves of a two-person video into the
    same one), and each fold is fused with the λ chosen on the others.

    Args:
        single: As for `fuse`.
        multi: As for `fuse`.
        index: Labels, as for `score`.
        split: Only this split of the index.
        grid: λ to try, each in [0, 1]; 0, 0.05, ... 1 where left out.
        folds: At most so many folds, at least 2.
        thresholds: Of AU probabilities, as for `score`.
        seed: Of the folds and of the resamples of videos.

    Returns:
        λ of each task that both sides and the labels hold, and the `Tuning` with curves and scores.

    Raises:
        InputError: As for `fuse` and `score`.
    """
    (*singles, whole), _ = _sides(single, multi)
    index, cuts = read_index(index, split), threshold_row(thresholds)
    shares = np.arange(21) / 20 if grid is None else np.asarray(grid, float)
    if folds < 2 or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError("tune: give at least 2 folds, and λ between 0 and 1")
    video = pl.col("video").fill_null("")
    sources = {name: source_video(name) for name in index.select(video.unique()).to_series()}
    units = {name: i for i, name in enumerate(sorted(set(sources.values())))}
    numbered = {name: units[source] for name, source in sources.items()}
    index, videos = index.with_columns(unit=video.replace_strict(numbered, return_dtype=pl.Int64)), len(units)
    folds = min(folds, videos)
    fold = np.random.default_rng(seed).permutation(videos) % folds
    holders = {task: table for table in singles for task in tasks_of(table) if task in tasks_of(whole)}
    places = {id(table): locate(table, index) for table in (*singles, whole)}
    lambdas, curves, scores = {}, [], []
    for task in common_tasks(tuple(holders), index):
        one, target, unit = aligned(holders[task], places[id(holders[task])], index, task)
        many, _, _ = aligned(whole, places[id(whole)], index, task)
        lambdas[task], curve, row = _tune_task(task, one, many, target, unit, fold, shares, cuts, seed)
        curves.append(pl.DataFrame({"task": [task] * len(shares), "lambda": shares, "score": curve}))
        scores.append([task, *(row.get(name) for name in SCORES)])
    schema = {"task": pl.String, **dict.fromkeys(SCORES, pl.Float64)}
    return lambdas, Tuning(lambdas, pl.concat(curves), pl.DataFrame(scores, schema, orient="row"), folds)


def _tune_task(
    task: str,
    one: Columns,
    many: Columns,
    target: Columns,
    video: NDArray,
    fold: NDArray,
    shares: NDArray,
    cuts: NDArray,
    seed: int,
) -> tuple[float, NDArray[np.float64], dict[str, float | None]]:
    """λ, the score at every λ, and the scores to tell; `fold` is that of each video."""

    def sums(share: float | NDArray[np.float64], videos: int = 1) -> NDArray[np.float64]:
        pred = [share * a + (1 - share) * b for a, b in zip(one, many, strict=True)]
        return measures.sums(task, pred, target, video if videos > 1 else None, videos, cuts)

    each = np.stack([sums(share, len(fold)) for share in shares])  # (λ, videos, columns, ...)
    seen = measures.labelled(task, each[0].sum(0)) > 0

    def score(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return measures.values(task, value)[..., seen].mean(-1)

    def choose(known: NDArray[np.bool_]) -> float:
        curve, error = score(each[:, known].sum(1)), np.zeros(len(shares))
        behind = curve.max() - curve
        if (n := known.sum()) > 1:
            draws = (
                np.random.default_rng(seed).multinomial(n, known / n, RESAMPLES).astype(float)
            )  # how often each video is drawn
            samples = score(np.tensordot(draws, each, (1, 1)))  # (resamples, λ)
            error = (samples - samples[:, [behind.argmin()]]).std(0)
        near = np.flatnonzero(behind <= error + 1e-12)
        return float(min(shares[near], key=lambda share: abs(share - 0.5)))

    curve = score(each.sum(1))
    told = {"single": 1.0, "multi": 0.0, "fixed": DEFAULT_LAMBDAS[task]}
    row: dict[str, float | None] = {name: float(score(sums(share))[0]) for name, share in told.items()}
    row["in_sample"] = float(curve.max())
    if len(fold) > 1:
        chosen = np.array([choose(fold != held) for held in range(fold.max() + 1)])
        row["cross_fitted"] = float(score(sums(chosen[fold[video]]))[0])
    return choose(np.full(len(fold), True)), curve, row


def fuse_files(
    files: Sequence[str],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    lambdas: Mapping[str, float] | None = None,
    tune: Table | None = None,
    split: str | None = None,
    seed: int = 0,
) -> str:
    """Fuses files into a file whose provenance names sources and weights, as the verb `fuse` does.

    Args:
        files: Single-task files, then the multi-task one; any with `weights`.
        out: The predictions file to write.
        weights: As for `mean`; takes the place of λ.
        lambdas: As for `fuse`.
        tune: Labels to tune λ on, as for `tune_fusion`.
        split: Of `tune`.
        seed: Of `tune`'s folds.

    Returns:
        What was done, for people.

    Raises:
        InputError: As `fuse`, `mean` and `tune_fusion`, or the options exclude each other.
    """
    if (weights is not None) + bool(lambdas) + (tune is not None) > 1:
        raise InputError("give weights, λ or an index to tune on, not two of them")
    if len(files) < 2:
        raise InputError(f"{files[0]}: nothing to fuse it with; name single-task files, then the multi-task one")
    how: dict[str, Any] = {"sources": {str(file): provenance(file) for file in files}}
    lines = []
    if weights is not None:
        fused = mean(files, weights)
        how["weights"] = list(weights)
        lines.append("weighted mean: " + ", ".join(f"{w:g} {file}" for w, file in zip(weights, files, strict=True)))
    else:
        tables, names = _sides(files[:-1], files[-1])
        if tune is not None:
            lambdas, tuning = tune_fusion(tables[:-1], tables[-1], tune, split=split, seed=seed)
            how |= {"tuned_on": str(tune), "split": split, "folds": tuning.folds, "seed": seed}
            lines += [tuning.table(), ""]
        shares = _shares(tables, lambdas)
        how["lambdas"] = {task: 1.0 - (row[-1] or 0.0) for task, row in shares.items()}
        fused = _blend(tables, names, shares)
        for task, row in shares.items():
            parts = [f"{share:.2f} {name}" for share, name in zip(row, names, strict=True) if share is not None]
            lines.append(f"{TASK_NAMES[task]}: {' + '.join(parts)}")
    save_predictions(fused, out, {"fusion": how})
    return "\n".join([*lines, f"{os.fspath(out)}: {fused.height:,} images"])


def _shares(tables: Sequence[pl.DataFrame], lambdas: Mapping[str, float] | None) -> dict[str, list[float | None]]:
    """Task -> the weight of every table, None where it has no part in the task; the multi-task table is the last."""
    chosen = DEFAULT_LAMBDAS | dict(lambdas or {})
    for task, share in chosen.items():
        if task not in TASKS or not 0 <= share <= 1:
            raise InputError(f"λ of {task}: {share} is not between 0 and 1 for one of {', '.join(TASKS)}")
    shares: dict[str, list[float | None]] = {}
    for task in TASKS:
        *single, multi = (task in tasks_of(table) for table in tables)
        share = chosen[task] if multi and any(single) else float(any(single))
        if multi or any(single):
            shares[task] = [*(share if holds else None for holds in single), 1 - share if multi else None]
    return shares


def _names(tables: Sequence[Table]) -> list[str]:
    return [f"predictions {i}" if isinstance(t, pl.DataFrame) else os.fspath(t) for i, t in enumerate(tables, 1)]


def _sides(single: Table | Sequence[Table], multi: Table) -> tuple[list[pl.DataFrame], list[str]]:
    """Tables and their names, the multi-task one last."""
    singles = [single] if isinstance(single, pl.DataFrame | str | os.PathLike) else list(single)
    if not singles:
        raise InputError("fuse: give at least one single-task predictions table before the multi-task one")
    names = _names([*singles, multi])
    tables = [read_predictions(table) for table in (*singles, multi)]
    for task in TASKS:
        holders = [name for name, table in zip(names[:-1], tables[:-1], strict=True) if task in tasks_of(table)]
        if len(holders) > 1:
            raise InputError(
                f"{holders[1]}: holds {task}, as {holders[0]} does; take each task from one single-task file"
            )
    return tables, names


def _blend(
    tables: Sequence[pl.DataFrame], names: Sequence[str], weights: Mapping[str, Sequence[float | None]]
) -> pl.DataFrame:
    """Weighted sums by image, in the order of the last table; None leaves a table out of a task."""
    out = tables[-1].select("image")
    joined = out
    for i, (table, name) in enumerate(zip(tables, names, strict=True)):
        for lacking, holding, lacks, holds in ((table, out, name, names[-1]), (out, table, names[-1], name)):
            absent = holding.join(lacking, on="image", how="anti")["image"]
            if len(absent):
                first = ", ".join(absent.head(3))
                raise InputError(
                    f"{lacks}: lacks {len(absent)} images of {holds} (first {first}); predict the same index"
                )
        numbered = table.rename({c: f"{c}:{i}" for c in table.columns if c != "image"})
        joined = joined.join(numbered, on="image", how="left", maintain_order="left")
    columns = [
        pl.sum_horizontal(
            *(share * pl.col(f"{c}:{i}") for i, share in enumerate(shares) if share is not None), ignore_nulls=False
        )
        .clip(-1 if task == "va" else 0, 1)  # against rounding
        .alias(c)
        for task, shares in weights.items()
        for c in PREDICTION_COLUMNS[task]
    ]
    filled = [c for c in joined.columns if c.startswith("filled:")]
    marks = [pl.any_horizontal(pl.col(c).fill_null(False) for c in filled).alias("filled")] if filled else []
    return joined.select("image", *columns, *marks)
