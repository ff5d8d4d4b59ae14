"""Post-processing fitted on labelled videos, and what it is worth on videos that it was not fitted on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import source_video
from triaffect.data.predictions import tasks_of
from triaffect.io import InputError, write_text
from triaffect.labels import PREDICTION_COLUMNS, TASK_NAMES, VA
from triaffect.metrics import measures
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index, read_predictions
from triaffect.metrics.measures import au_score, expr_score, va_score
from triaffect.metrics.postprocess import PLAIN, Floats, Post, fit, run
from triaffect.metrics.scores import Comparison, Scores, compare, score
from triaffect.metrics.smoothing import frames_of, smooth
from triaffect.text import format_number, text_table

SIGMAS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Widths of the Gaussian to try, in frames."""

COVERAGE = 0.9
"""Share of frames that a V-A interval holds."""

SCORES = {"va": va_score, "expr": expr_score, "au": au_score}


@dataclass
class Tuned:
    """What `tune` found.

    Attributes:
        post: Fitted on all videos; what to use from here on.
        raw: Scores of the predictions as they came.
        cross_fitted: Each fold of videos with what was fitted on the others: the honest figure.
        in_sample: Fitted on the very frames that are scored, as papers print it; flattering.
        gain: Cross-fitted minus raw, with intervals over videos.
        calibration: Expected calibration error of the expressions before and after the temperature, cross-fitted.
        coverage: Share of the frames of unseen videos that the interval of valence and of arousal holds.
        folds: Folds used.
    """

    post: Post
    raw: Scores
    cross_fitted: Scores
    in_sample: Scores
    gain: Comparison
    calibration: tuple[float, float] | None
    coverage: tuple[float, ...] | None
    folds: int

    def table(self) -> str:
        """Aligned text for people."""
        rows = []
        for task in (*self.raw.tasks, "total"):
            sides = (self.raw, self.cross_fitted, self.in_sample)
            three = [format_number(side.total if task == "total" else side.tasks[task]) for side in sides]
            low, high = self.gain.intervals[task]
            gain = f"{self.gain.difference[task]:+.3f} [{low:+.3f}, {high:+.3f}]"
            width = f"{self.post[task]['sigma']:g}" if task in self.post else ""
            rows.append([TASK_NAMES.get(task, task), *three, gain, width])
        lines = [
            text_table(["task", "raw", "cross-fitted", "in-sample", "gain [95 %]", "sigma"], rows),
            "",
            f"cross-fitted: each of {self.folds} folds of videos with what the others gave; gain: that minus raw",
            "in-sample: fitted on the frames it is scored on, which flatters; sigma: smoothing, in frames",
        ]
        if self.calibration:
            before, after = self.calibration
            told = f"{self.post['expr']['temperature']:.2f}: expected calibration error {before:.3f} to {after:.3f}"
            lines.append(f"temperature {told}, before the class biases")
        if self.coverage:
            pairs = zip(VA, self.post["va"]["interval"], self.coverage, strict=True)
            held = ", ".join(f"{name} ± {half:.2f} (held {share:.0%})" for name, half, share in pairs)
            lines.append(f"{COVERAGE:.0%} intervals: {held}")
        return "\n".join(lines)


def tune(predictions: Table, index: Table, *, split: str | None = None, folds: int = 5, seed: int = 0) -> Tuned:
    """Fits the post-processing of each task on labelled videos and says honestly what it is worth.

    The figure to believe is cross-fitted: source videos are dealt into folds, and each fold gets what the others gave.

    Args:
        predictions: As for `score`; frames without a label take part in the smoothing.
        index: Labels, as for `score`.
        split: Only this split of the index.
        folds: At most so many folds, at least 2.
        seed: Of the folds and the resamples.

    Returns:
        The fit, its three scores and the gain.

    Raises:
        InputError: As `score`; or there are fewer than two source videos.
    """
    table, labels = read_predictions(predictions), read_index(index, split)
    labels, videos = _numbered(labels)
    if min(folds, videos) < 2:
        raise InputError(f"tune: {videos} source videos in {folds} folds; cross-fitting needs two of both")
    folds = min(folds, videos)
    dealt = np.random.default_rng(seed).permutation(videos) % folds
    tasks = common_tasks(tasks_of(table), labels)
    places, (video, frame) = locate(table, labels), frames_of(table)
    post: Post = {}
    in_sample, crossed = table, table
    calibration = coverage = None
    for task in tasks:
        columns = PREDICTION_COLUMNS[task]
        values = table.select(columns).to_numpy().astype(float)
        # Row numbers of the labelled frames come through the same door as the predictions.
        numbered = table.with_columns(pl.Series(c, np.arange(table.height)) for c in columns)
        (rows, *_), target, unit = aligned(numbered, places, labels, task)
        fold = dealt[unit]
        y = np.stack(target, 1).astype(float)
        smoothed = {sigma: smooth(values, video, frame, sigma) for sigma in SIGMAS}
        post[task] = _choose(task, smoothed, rows, y, unit, seed)
        others = [fold != held for held in range(folds)]
        parts = [_choose(task, smoothed, rows[other], y[other], unit[other], seed) for other in others]
        done = run(task, smoothed[post[task]["sigma"]], post[task])
        in_sample = in_sample.with_columns(pl.Series(c, done[:, i]) for i, c in enumerate(columns))
        unseen, warm = done.copy(), values.copy()
        for held, part in enumerate(parts):
            own = rows[fold == held]
            unseen[own] = run(task, smoothed[part["sigma"]][own], part)
            if task == "expr":
                warm[own] = run(task, smoothed[part["sigma"]][own], {**part, **PLAIN[task]})
        crossed = crossed.with_columns(pl.Series(c, unseen[:, i]) for i, c in enumerate(columns))
        if task == "expr":
            known, codes = rows[y[:, 0] >= 0], y[y[:, 0] >= 0, 0].astype(int)
            calibration = calibration_error(values[known], codes), calibration_error(warm[known], codes)
        elif task == "va":
            off = np.abs(unseen[rows] - y)
            post[task]["interval"] = np.nanquantile(off, COVERAGE, axis=0).tolist()
            coverage = _coverage(off, fold, folds)
    options: dict[str, Any] = {"tasks": tasks, "seed": seed}
    raw, honest, fitted = (score(each, labels, **options) for each in (table, crossed, in_sample))
    gain = compare(crossed, table, labels, **options)
    return Tuned(post, raw, honest, fitted, gain, calibration, coverage, folds)


def _numbered(index: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The index with the number of each frame's source video as `unit` (both persons of a video share it)."""
    videos = index["video"].fill_null("").unique().to_list()
    number = {source: i for i, source in enumerate(sorted({source_video(name) for name in videos}))}
    unit = {name: number[source_video(name)] for name in videos}
    numbered = pl.col("video").fill_null("").replace_strict(unit, return_dtype=pl.Int64)
    return index.with_columns(unit=numbered), len(number)


def _choose(task: str, smoothed: Mapping[int, Floats], rows: NDArray, y: Floats, unit: NDArray, seed: int) -> Post:
    """The best width and fit on these frames, each step only if it shows its worth on videos that it was not fitted on.

    A step stays when its cross-fitted gain exceeds two standard errors over videos, so that noise fits nothing.
    """
    target = y[:, 0].astype(int) if task == "expr" else y

    def worth(sigma: int) -> float:
        x = smoothed[sigma][rows]
        # Biases do not move the best width much, and cost more than everything else.
        found = SCORES[task](x if task == "expr" else run(task, x, fit(task, x, y)), target)[task]
        return -np.inf if np.isnan(found) else round(found, 9)

    sigma = max(smoothed, key=worth)
    raw, x, half = smoothed[0][rows], smoothed[sigma][rows], unit % 2
    crossed = x.copy()
    for side in (0, 1):
        crossed[half == side] = run(task, x[half == side], fit(task, x[half != side], y[half != side]))
    kept, width, stays = raw, 0, False
    for candidate, fitted in ((x, False), (crossed, True)):
        if (fitted or sigma) and _gains(task, kept, candidate, y, unit, seed):
            kept, width, stays = candidate, sigma, fitted
    found = fit(task, smoothed[width][rows], y)
    # A temperature moves no class, so it is always fitted.
    return {"sigma": float(width), **(found if stays else {**found, **PLAIN[task]})}


def _gains(task: str, old: Floats, new: Floats, y: Floats, unit: NDArray, seed: int) -> bool:
    """Whether the new predictions' score is ahead by over two standard errors of the difference over videos."""
    names, video = np.unique(unit, return_inverse=True)
    if len(names) < 2:
        return False
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), 200)
    weights = np.vstack([np.ones(len(names)), draws])
    each = []
    for x in (old, new):
        sums = measures.sums(task, list(x.T), list(y.T), video, len(names))
        seen = measures.labelled(task, sums.sum(0)) > 0
        drawn = (weights @ sums.reshape(len(names), -1)).reshape(-1, *sums.shape[1:])
        each.append(measures.values(task, drawn)[:, seen].mean(1))
    gain = each[1] - each[0]
    return bool(gain[0] > 2 * gain[1:].std())


def _coverage(off: Floats, fold: NDArray, folds: int) -> tuple[float, ...]:
    """Share of frames within the other folds' interval."""
    held = np.full(off.shape, np.nan)
    for each in range(folds):
        own = fold == each
        if own.any() and (~own).any():
            held[own] = off[own] <= np.nanquantile(off[~own], COVERAGE, axis=0)
    held[np.isnan(off)] = np.nan
    return tuple(np.nanmean(held, 0).tolist())


def calibration_error(probability: Floats, target: NDArray, bins: int = 15) -> float:
    """Expected calibration error of the likeliest class (Guo et al. 2017): |accuracy - confidence|, mean over frames.

    Args:
        probability: (n, classes).
        target: (n,) codes, none missing.
        bins: Of equal width.
    """
    confidence, right = probability.max(1), probability.argmax(1) == target
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, right - confidence, bins)).sum() / max(1, len(target)))


def tune_files(
    predictions: str,
    index: str,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    folds: int = 5,
    seed: int = 0,
) -> str:
    """`tune` on files; writes `post.json` and returns what was found, for people."""
    found = tune(predictions, index, split=split, folds=folds, seed=seed)
    made = {"predictions": str(predictions), "index": str(index), "split": split, "folds": found.folds, "seed": seed}
    figures = {"raw": found.raw, "cross_fitted": found.cross_fitted, "in_sample": found.in_sample}
    scores = {name: {**each.tasks, "total": each.total} for name, each in figures.items()}
    whole = {**found.post, "made": {**made, "scores": scores, "gain": vars(found.gain)}}
    write_text(out, json.dumps(whole, indent=1) + "\n")
    return f"{found.table()}\n\n{os.fspath(out)}: give it to predict, fuse, analyze or submit as --post"
