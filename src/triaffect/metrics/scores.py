"""The official score of a predictions file: values, floor of trivial predictors, intervals over videos, signature.

One pass over the frames leaves the sums of each video (measures.py); a resample of videos, a group of frames and a
paired test are weighted sums of those. Frames of one video resemble each other, so videos are what is resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect import __version__
from triaffect.data.predictions import Thresholds, tasks_of, threshold_row
from triaffect.io import InputError
from triaffect.labels import LABEL_COLUMNS, TASKS
from triaffect.metrics import measures
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index, read_predictions
from triaffect.metrics.measures import COLUMNS, au_score, ccc, expr_score, va_score

__all__ = ["Comparison", "Scores", "au_score", "ccc", "expr_score", "paired_bootstrap", "score", "va_score"]


@dataclass
class Scores:
    """What `score` found.

    Attributes:
        tasks: Score of each task that is present in both predictions and labels.
        total: Their sum; the papers' P where all three are present.
        va: CCC of valence and arousal.
        expr: F1 of each class.
        au: F1 of each AU. In all three, a column without any label is None and left out of the task's mean.
        intervals: Percentile 95 % interval over videos of each task, column and `total`; empty with fewer than two
            videos.
        floor: The best trivial predictor's score of each task and in `total`.
        trivial: What that predictor says, for each task.
        frames: Labelled frames of each task.
        labelled: Labelled frames of each column.
        positives: Frames that show each class and AU.
        confusion: (8, 8) counts, truth in rows, prediction in columns; None without the task.
        videos: Videos scored.
        signature: How the numbers were made, in one line.
        groups: With `by`, the scores of each group.
        by: The column of the groups.
        gaps: With `by`, for each task and `total`, `worst` and `best` group and the `gap` between them.
    """

    tasks: dict[str, float]
    total: float
    va: dict[str, float | None]
    expr: dict[str, float | None]
    au: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    floor: dict[str, float]
    trivial: dict[str, str]
    frames: dict[str, int]
    labelled: dict[str, int]
    positives: dict[str, int]
    confusion: list[list[int]] | None
    videos: int
    signature: str
    by: str | None = None
    groups: dict[str, Scores] = field(default_factory=dict)
    gaps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        plain = dict(vars(self))
        plain["groups"] = {name: group.to_dict() for name, group in self.groups.items()}
        return plain

    def table(self) -> str:
        """Aligned text for people: tasks, classes, AUs, groups, signature."""
        from triaffect.metrics.tables import scores_text

        return scores_text(self)


@dataclass
class Comparison:
    """What `paired_bootstrap` found, for each task, column and `total`.

    Attributes:
        difference: First minus second.
        intervals: Percentile 95 % interval of the difference over videos; empty with fewer than two videos.
        p: Two-sided: how often a resample does not share the difference's sign, twice. 1 where nothing differs; None
            where it cannot be told (fewer than two videos).
        signature: How the numbers were made, in one line.
    """

    difference: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p: dict[str, float | None]
    signature: str

    def table(self) -> str:
        """Aligned text for people."""
        from triaffect.metrics.tables import comparison_text

        return comparison_text(self)


@dataclass
class _Collected:
    """Sums of each unit: a video, or with `by` a video within a group."""

    sums: dict[str, NDArray[np.float64]]  # task -> (units, columns, ...)
    frames: dict[str, NDArray[np.int64]]  # task -> (units,) labelled frames
    units: pl.DataFrame  # columns video and, with `by`, group; the row is the unit
    split: str

    def of(self, units: NDArray[np.integer]) -> _Collected:
        """The same for some units, with the tasks that are labelled there."""
        sums = {task: value[units] for task, value in self.sums.items() if self.frames[task][units].any()}
        return _Collected(sums, {task: self.frames[task][units] for task in sums}, self.units[units], self.split)

    def total(self) -> dict[str, NDArray[np.float64]]:
        """Task -> (columns, ...)."""
        return {task: value.sum(0) for task, value in self.sums.items()}

    def by_video(self) -> dict[str, NDArray[np.float64]]:
        """Task -> (videos, columns, ...)."""
        names, video = np.unique(self.units["video"].fill_null("").to_numpy(), return_inverse=True)
        out = {task: np.zeros((len(names), *value.shape[1:])) for task, value in self.sums.items()}
        for task, value in self.sums.items():
            np.add.at(out[task], video, value)
        return out


def score(
    predictions: Table,
    index: Table,
    *,
    split: str | None = None,
    tasks: Sequence[str] | None = None,
    thresholds: Thresholds = None,
    resamples: int = 1000,
    seed: int = 0,
    by: str | None = None,
) -> Scores:
    """Scores predictions by the official measures.

    Args:
        predictions: A predictions frame, its file, or an ABAW submission in text.
        index: An index frame, its file, or an annotation file or tree.
        split: Only this split of the index.
        tasks: Only these; all that both sides hold where left out.
        thresholds: Of AU probabilities: one number, twelve, or by name (0.5 for the rest); 0.5 where left out.
        resamples: Of the bootstrap over videos; 0 for no intervals.
        seed: Of the resamples.
        by: Also score each group of this index column.

    Returns:
        The scores.

    Raises:
        InputError: A labelled frame has no prediction, a prediction is not finite, or nothing is left to score.
    """
    cuts, labels, given = threshold_row(thresholds), read_index(index, split), read_predictions(predictions)
    collected = _collect(given, labels, common_tasks(tasks_of(given), labels, tasks), cuts, by)
    scores = _summarise(collected, cuts, resamples, seed)
    if by is not None:
        scores.by = by
        groups = collected.units.with_row_index("unit").sort("group").group_by("group", maintain_order=True)
        for (name,), rows in groups:
            scores.groups[str(name)] = _summarise(collected.of(rows["unit"].to_numpy()), cuts, resamples, seed)
        scores.gaps = _gaps(scores)
    return scores


def paired_bootstrap(
    a: Table,
    b: Table,
    index: Table,
    *,
    split: str | None = None,
    tasks: Sequence[str] | None = None,
    thresholds: Thresholds = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Is one prediction better than another on the same videos, or would other videos tell otherwise?

    Both are scored on the same resamples of the videos (Efron and Tibshirani 1993, An Introduction to the Bootstrap).

    Args:
        a: Predictions, as for `score`.
        b: Predictions of the same frames.
        index: Labels, as for `score`.
        split: Only this split of the index.
        tasks: Only these; all that the three hold where left out.
        thresholds: Of AU probabilities, as for `score`.
        resamples: Of the videos, at least 1.
        seed: Of the resamples.

    Returns:
        Differences a - b, intervals and p.

    Raises:
        InputError: As for `score`, or the two share no task.
    """
    cuts, labels = threshold_row(thresholds), read_index(index, split)
    sides = [read_predictions(a), read_predictions(b)]
    shared = common_tasks([task for task in tasks_of(sides[0]) if task in tasks_of(sides[1])], labels, tasks)
    one, two = (_collect(side, labels, shared, cuts, None) for side in sides)
    seen = {task: measures.labelled(task, value) > 0 for task, value in one.total().items()}
    point = _difference(_evaluate(one.total(), seen), _evaluate(two.total(), seen))
    samples = _difference(*(_resample(side.by_video(), seen, resamples, seed) for side in (one, two)))
    told = one.units.height > 1 and resamples > 0
    p: dict[str, float | None] = {}
    for name, value in point.items():
        p[name] = None
        if value == 0:
            p[name] = 1.0
        elif told:
            opposed = min((samples[name] <= 0).sum(), (samples[name] >= 0).sum())
            p[name] = float(min(1, 2 * (opposed + 1) / (resamples + 1)))
    signature = _signature(one, cuts, resamples, seed)
    return Comparison({k: float(v) for k, v in point.items()}, _intervals(samples) if told else {}, p, signature)


def _difference(
    a: Mapping[str, NDArray[np.float64]], b: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    # Rounding is no difference: two copies of one prediction, rows in another order, must stay equal.
    return {name: np.where(abs(a[name] - b[name]) < 1e-12, 0, a[name] - b[name]) for name in a}


def _collect(
    predictions: pl.DataFrame, index: pl.DataFrame, tasks: Sequence[str], cuts: NDArray[np.float64], by: str | None
) -> _Collected:
    if by is not None and by not in index.columns:
        raise InputError(f"no column {by!r} in the index; it has {', '.join(index.columns)}")
    labels = [name for task in tasks for name in LABEL_COLUMNS[task]]
    index = index.select(*dict.fromkeys(["image", "video", "split", *labels, *([by] if by else [])]))
    some = index.select(pl.any_horizontal(pl.col(labels).is_not_null())).to_series()
    index = index if some.all() else index.filter(some)
    keys = [pl.col("video").fill_null("(missing)")]
    if by is not None:
        if (n := index[by].n_unique()) > 1000:
            raise InputError(f"{by}: {n} different values are too many groups; put them into a few first")
        keys.append(pl.col(by).cast(pl.String).fill_null("(missing)").alias("group"))
    names = index.select(keys)
    units = names.unique().sort(names.columns)
    numbered = units.with_row_index("unit").with_columns(pl.col("unit").cast(pl.Int64))
    index = index.with_columns(names.join(numbered, on=names.columns, how="left", maintain_order="left")["unit"])
    places, sums, frames = locate(predictions, index), {}, {}
    for task in tasks:
        pred, target, group = aligned(predictions, places, index, task)
        sums[task] = measures.sums(task, pred, target, group, units.height, cuts)
        frames[task] = np.bincount(group, minlength=units.height)
        del pred, target, group  # before the next task's take as much again
    split = "+".join(index["split"].unique().sort().fill_null("-"))
    return _Collected(sums, frames, units, split)


def _summarise(collected: _Collected, cuts: NDArray[np.float64], resamples: int, seed: int) -> Scores:
    total, videos = collected.total(), collected.units["video"].n_unique()
    seen = {task: measures.labelled(task, value) > 0 for task, value in total.items()}
    point = _evaluate(total, seen)
    samples = _resample(collected.by_video(), seen, resamples, seed) if videos > 1 else {}
    floors = {task: measures.floor(task, value) for task, value in total.items()}
    labelled = {task: measures.labelled(task, value) for task, value in total.items()}
    shown = {task: measures.positives(task, value) for task, value in total.items() if task != "va"}
    each: dict[str, dict[str, float | None]] = {
        task: {c: float(point[c]) if c in point else None for c in COLUMNS[task]} if task in total else {}
        for task in TASKS
    }
    return Scores(
        tasks={task: float(point[task]) for task in total},
        total=float(point["total"]),
        va=each["va"],
        expr=each["expr"],
        au=each["au"],
        intervals=_intervals(samples),
        floor={task: value for task, (value, _) in floors.items()} | {"total": sum(v for v, _ in floors.values())},
        trivial={task: words for task, (_, words) in floors.items()},
        frames={task: int(collected.frames[task].sum()) for task in total},
        labelled={c: int(n) for task, row in labelled.items() for c, n in zip(COLUMNS[task], row, strict=True)},
        positives={c: int(n) for task, row in shown.items() for c, n in zip(COLUMNS[task], row, strict=True)},
        confusion=total["expr"].astype(int).tolist() if "expr" in total else None,
        videos=videos,
        signature=_signature(collected, cuts, resamples, seed),
    )


def _signature(collected: _Collected, cuts: NDArray[np.float64], resamples: int, seed: int) -> str:
    tasks = list(collected.sums)
    absent = [
        name
        for task, value in collected.total().items()
        for name, n in zip(COLUMNS[task], measures.labelled(task, value), strict=True)
        if n == 0
    ]
    parts = {
        "tasks": "+".join(tasks),
        "split": collected.split,
        "frames": "+".join(str(collected.frames[task].sum()) for task in tasks),
        "videos": collected.units["video"].n_unique(),
        "unlabelled": "+".join(absent),
        "thresholds": (
            "" if "au" not in tasks else ",".join(f"{cut:g}" for cut in (cuts if np.ptp(cuts) else cuts[:1]))
        ),
        "resamples": resamples,
        "seed": seed,
        "version": __version__,
    }
    return "triaffect|" + "|".join(f"{name}:{value}" for name, value in parts.items() if value != "")


def _gaps(scores: Scores) -> dict[str, dict[str, Any]]:
    """The worst and the best group by each task's score, and by the total of those that have all tasks."""
    gaps = {}
    for name in (*scores.tasks, "total"):
        found = {
            group: each.total if name == "total" else each.tasks[name]
            for group, each in scores.groups.items()
            if (each.tasks.keys() == scores.tasks.keys() if name == "total" else name in each.tasks)
        }
        if len(found) > 1:
            worst, best = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
            gaps[name] = {"worst": worst, "best": best, "gap": found[best] - found[worst]}
    return gaps


def _evaluate(
    sums: Mapping[str, NDArray[np.float64]], seen: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.float64]]:
    """Every column's, task's and the total score, (...) each, from sums (..., columns, k)."""
    out: dict[str, NDArray[np.float64]] = {}
    for task, value in sums.items():
        each = measures.values(task, value)
        out |= {name: each[..., i] for i, name in enumerate(COLUMNS[task]) if seen[task][i]}
        out[task] = each[..., seen[task]].mean(-1)
    out["total"] = np.sum([out[task] for task in sums], axis=0)
    return out


def _resample(
    by_video: Mapping[str, NDArray[np.float64]], seen: Mapping[str, NDArray[np.bool_]], resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Scores of resamples of the videos, (resamples,) each: how often each video is drawn, times its sums."""
    videos = len(next(iter(by_video.values())))
    rng, found = np.random.default_rng(seed), []
    step = max(1, 4_000_000 // videos)
    for start in range(0, resamples, step):
        draws = (rng.integers(0, videos, videos) for _ in range(min(step, resamples - start)))
        weights = np.stack([np.bincount(draw, minlength=videos) for draw in draws]).astype(float)
        sums = {
            task: (weights @ value.reshape(videos, -1)).reshape(-1, *value.shape[1:])
            for task, value in by_video.items()
        }
        found.append(_evaluate(sums, seen))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]} if found else {}


def _intervals(samples: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    return {
        name: (float(low), float(high)) for name, v in samples.items() for low, high in [np.percentile(v, [2.5, 97.5])]
    }
