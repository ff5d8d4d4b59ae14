"""Weighted means of any number of systems, the weights chosen on labelled videos without leaking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.predictions import tasks_of
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import Floats, source_folds
from triaffect.metrics.fusion import blend, same_tasks
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index

FOLDS = 5
"""Maximum number of folds."""
PICKS = 5
"""Additions per member after the first, so that the finest step of a weight is one sixth of an equal share."""


@dataclass
class Blend:
    """Result of `tune_blend`.

    Attributes:
        weights: Task -> one weight per member, with sum 1, chosen on all videos; those to use on other videos.
        cross_fitted: Predictions, each fold of videos with the weights chosen on the others.
    """

    weights: dict[str, list[float]]
    cross_fitted: pl.DataFrame


def tune_blend(members: Sequence[Table], index: Table, *, classes: int = 8) -> Blend:
    """Choose the weights of a mean for each task, and apply them to videos that they were not chosen on.

    Members are added one at a time, with repetition, as long as that raises the score (ensemble selection, Caruana et
    al. 2004). It begins with each member once, so that few videos cannot move it far from the plain mean.

    Args:
        members: Predictions of the same tasks and images.
        index: Labels, as for `score`.
        classes: As for `score`.

    Raises:
        InputError: As for `fusion.mean` and `score`, or there are fewer than two source videos.
    """
    tables, names = same_tasks(members)
    labels = read_index(index, None, classes)
    labels, fold_of_source, folds = source_folds(labels, FOLDS, seed=0)
    places = [locate(table, labels) for table in tables]
    equal = [1 / len(tables)] * len(tables)
    weights = dict.fromkeys(tasks_of(tables[0]), equal)
    of_fold: list[dict[str, list[float]]] = [dict(weights) for _ in range(folds)]
    for task in common_tasks(tasks_of(tables[0]), labels):
        parts = [aligned(table, place, labels, task, classes) for table, place in zip(tables, places, strict=True)]
        columns = np.stack([np.stack(part[0]) for part in parts]).astype(float)
        _, target, unit = parts[0]
        weights[task] = _choose(task, columns, target)
        for number in range(folds):
            others = fold_of_source[unit] != number
            of_fold[number][task] = _choose(task, columns[..., others], [column[others] for column in target])
    images = tables[-1].select("image")
    fold_of_image = labels.select("image", fold=pl.Series(fold_of_source[labels["unit"].to_numpy()])).unique("image")
    # Frames without a label are in no fold, and get the weights of all videos.
    fold = images.join(fold_of_image, on="image", how="left", maintain_order="left")["fold"].fill_null(folds)
    crossed = [blend(tables, names, row).filter(fold == number) for number, row in enumerate([*of_fold, weights])]
    return Blend(weights, images.join(pl.concat(crossed), on="image", how="left", maintain_order="left"))


def apply_weights(members: Sequence[Table], weights: Mapping[str, Sequence[float]]) -> pl.DataFrame:
    """Average predictions with the weights of `tune_blend`, task -> one per member."""
    return blend(*same_tasks(members), weights)


def _choose(task: str, columns: Floats, target: Sequence[NDArray]) -> list[float]:
    """Choose weights on some frames.

    Args:
        task: `va`, `expr` or `au`.
        columns: (members, columns, n) predictions.
        target: (n,) label columns.
    """

    def score(total: Floats, count: int) -> float:
        sums = measures.sums(task, list(total / count), target)[0]
        labelled = measures.labelled(task, sums) > 0
        return float(measures.values(task, sums)[labelled].mean()) if labelled.any() else 0.0

    counts = np.ones(len(columns))
    total = columns.sum(0)
    best = score(total, len(columns))
    for _ in range(PICKS * len(columns)):
        scores = [score(total + member, int(counts.sum()) + 1) for member in columns]
        if max(scores) <= best + 1e-9:
            break
        best, chosen = max(scores), int(np.argmax(scores))
        total = total + columns[chosen]
        counts[chosen] += 1
    return (counts / counts.sum()).tolist()
