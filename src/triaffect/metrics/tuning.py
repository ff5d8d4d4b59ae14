"""Fitting post-processing on labelled videos, and estimating what it is worth on other videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.predictions import tasks_of
from triaffect.labels import PREDICTION_COLUMNS, TASK_NAMES, VA
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import Floats, Sums, bootstrap, source_folds
from triaffect.metrics.matching import Table, aligned, common_tasks, locate, read_index, read_predictions
from triaffect.metrics.postprocess import CORRECTIONS, EPSILON, Correction, PostProcessing, frame_numbers, smooth
from triaffect.metrics.scores import Comparison, Scores, compare, score
from triaffect.text import format_number, text_table

SIGMAS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Widths of the smoothing to try, in frames."""

COVERAGE = 0.9
"""Share of frames whose label is within the interval of valence and arousal."""

INNER_FOLDS = 5
"""Folds in which a correction is tried before it is kept; halves fit it too badly to see its worth."""

RESAMPLES = 200
"""Resamples of the source videos, for the standard error of a gain."""


@dataclass
class Tuned:
    """Result of `tune`.

    Attributes:
        post: Post-processing fitted on all videos; the one to use.
        raw: Scores of the predictions before.
        cross_fitted: Scores after, each fold of videos with what was fitted on the others; the scores to trust.
        in_sample: Scores after, on the frames that it was fitted on, as papers print them; too optimistic.
        gain: Cross-fitted minus raw, with intervals over source videos.
        calibration: Expected calibration error of the expressions before and after the temperature, cross-fitted.
        coverage: Share of frames of other videos within the interval of valence and of arousal.
        folds: Number of folds.
        predictions: The predictions that `cross_fitted` scores.
    """

    post: PostProcessing
    raw: Scores
    cross_fitted: Scores
    in_sample: Scores
    gain: Comparison
    calibration: tuple[float, float] | None
    coverage: tuple[float, ...] | None
    folds: int
    predictions: pl.DataFrame

    def table(self) -> str:
        """Format the scores as text."""
        rows = []
        for task in (*self.raw.tasks, "total"):
            values = [format_number(scores.value(task)) for scores in (self.raw, self.cross_fitted, self.in_sample)]
            low, high = self.gain.intervals[task]
            gain = f"{self.gain.difference[task]:+.3f} [{low:+.3f}, {high:+.3f}]"
            sigma = f"{self.post.tasks[task].sigma:g}" if task in self.post.tasks else ""
            rows.append([TASK_NAMES.get(task, task), *values, gain, sigma])
        lines = [
            text_table(["task", "raw", "cross-fitted", "in-sample", "gain [95 %]", "sigma"], rows),
            "",
            f"cross-fitted: each of {self.folds} folds of videos with what was fitted on the others; gain: minus raw",
            "in-sample: scored on the frames that it was fitted on; too optimistic; sigma: smoothing, in frames",
        ]
        if self.calibration and self.post.expr:
            before, after = self.calibration
            error = f"expected calibration error {before:.3f} to {after:.3f}, before the class biases"
            lines.append(f"temperature {self.post.expr.temperature:.2f}: {error}")
        if self.coverage and self.post.va:
            intervals = zip(VA, self.post.va.interval, self.coverage, strict=True)
            words = ", ".join(f"{name} ± {half:.2f} (covers {share:.0%})" for name, half, share in intervals)
            lines.append(f"{COVERAGE:.0%} intervals: {words}")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Return the scores and the gain as plain data."""
        scores = {"raw": self.raw, "cross_fitted": self.cross_fitted, "in_sample": self.in_sample}
        values = {name: {**side.tasks, "total": side.total} for name, side in scores.items()}
        return {"folds": self.folds, "scores": values, "gain": vars(self.gain)}


def tune(
    predictions: Table, index: Table, *, split: str | None = None, folds: int = 5, seed: int = 0, classes: int = 8
) -> Tuned:
    """Fit the post-processing of each task on labelled videos, and estimate without bias what it is worth.

    The scores to trust are cross-fitted: the source videos are divided into folds, and each fold gets what was fitted
    on the others.

    Args:
        predictions: As for `score`; frames without a label take part in the smoothing.
        index: Labels, as for `score`.
        split: Only this split of the index.
        folds: Maximum number of folds, at least 2.
        seed: Seed of the folds and the resamples.
        classes: As for `score`.

    Raises:
        InputError: As `score`; or there are fewer than two source videos.
    """
    table, labels = read_predictions(predictions), read_index(index, split, classes)
    labels, fold_of_source, folds = source_folds(labels, folds, seed)
    tasks = common_tasks(tasks_of(table), labels)
    places, (video, frame) = locate(table, labels), frame_numbers(table)
    corrections: dict[str, Any] = {}
    in_sample, cross_fitted = table, table
    calibration = coverage = None
    for task in tasks:
        columns = PREDICTION_COLUMNS[task][: classes if task == "expr" else None]
        values = table.select(columns).to_numpy().astype(float)
        # The row numbers of the labelled frames, matched in the same way as predictions.
        numbered = table.with_columns(pl.Series(c, np.arange(table.height)) for c in columns)
        (rows, *_), target, unit = aligned(numbered, places, labels, task)
        fold, y = fold_of_source[unit], np.stack(target, 1).astype(float)
        smoothed = {sigma: smooth(values, video, frame, sigma) for sigma in SIGMAS}
        fitted: Any = _fit(task, smoothed, rows, y, unit, seed)
        after = fitted.apply(smoothed[int(fitted.sigma)])
        in_sample = _with_values(in_sample, columns, after)
        crossed, warm = after.copy(), values.copy()
        for number in range(folds):
            others, of_fold = fold != number, rows[fold == number]
            part = _fit(task, smoothed, rows[others], y[others], unit[others], seed)
            crossed[of_fold] = part.apply(smoothed[int(part.sigma)][of_fold])
            if task == "expr":
                warm[of_fold] = part.without_effect().apply(smoothed[int(part.sigma)][of_fold])
        cross_fitted = _with_values(cross_fitted, columns, crossed)
        if task == "expr":
            labelled, codes = rows[y[:, 0] >= 0], y[y[:, 0] >= 0, 0].astype(int)
            declared = values[labelled] / values[labelled].sum(1, keepdims=True).clip(EPSILON)
            calibration = calibration_error(declared, codes), calibration_error(warm[labelled], codes)
        elif task == "va":
            error = np.abs(crossed[rows] - y)
            fitted = replace(fitted, interval=tuple(np.nanquantile(error, COVERAGE, axis=0).tolist()))
            coverage = _coverage(error, fold, folds)
        corrections[task] = fitted
    options: dict[str, Any] = {"tasks": tasks, "seed": seed, "classes": classes}
    raw, honest, optimistic = (score(side, labels, **options) for side in (table, cross_fitted, in_sample))
    gain = compare(cross_fitted, table, labels, **options)
    post = PostProcessing(**corrections)
    return Tuned(post, raw, honest, optimistic, gain, calibration, coverage, folds, cross_fitted)


def _with_values(table: pl.DataFrame, columns: tuple[str, ...], values: Floats) -> pl.DataFrame:
    return table.with_columns(pl.Series(c, values[:, i]) for i, c in enumerate(columns))


def _fit(task: str, smoothed: Mapping[int, Floats], rows: NDArray, y: Floats, unit: NDArray, seed: int) -> Correction:
    """Choose smoothing and correction on these frames.

    Each of the two stays only if its cross-fitted gain exceeds two standard errors over source videos, so that nothing
    is fitted to noise.
    """
    kind, target = CORRECTIONS[task], y[:, 0].astype(int) if task == "expr" else y

    def rounded_score(sigma: int) -> float:
        x = smoothed[sigma][rows]
        # Biases hardly move the best width, and cost more time than everything else.
        x = x if task == "expr" else kind.fit(x, y).apply(x)
        value = measures.TASK_SCORES[task](x, target)[task]
        return -np.inf if np.isnan(value) else round(value, 9)

    best_sigma = max(smoothed, key=rounded_score)
    raw, x, fold = smoothed[0][rows], smoothed[best_sigma][rows], unit % INNER_FOLDS
    corrected = x.copy()
    for number in np.unique(fold):
        others = fold != number
        corrected[~others] = kind.fit(x[others], y[others]).apply(x[~others])
    accepted, sigma, is_corrected = raw, 0, False
    if best_sigma and _is_better(task, accepted, x, y, unit, seed):
        accepted, sigma = x, best_sigma
    if _is_better(task, accepted, corrected, y, unit, seed):
        sigma, is_corrected = best_sigma, True
    correction = kind.fit(smoothed[sigma][rows], y)
    # A temperature changes no predicted class, so it always stays.
    return replace(correction if is_corrected else correction.without_effect(), sigma=float(sigma))


def _is_better(task: str, old: Floats, new: Floats, y: Floats, unit: NDArray, seed: int) -> bool:
    """Return whether new predictions score higher by more than two standard errors over source videos."""
    names, source = np.unique(unit, return_inverse=True)
    if len(names) < 2:
        return False
    sides = [measures.sums(task, list(x.T), list(y.T), source, len(names)) for x in (old, new)]
    sums = np.stack(sides, 1)
    labelled = measures.labelled(task, sides[1].sum(0)) > 0

    def gain(sums: Sums) -> Sums:
        scores = measures.values(task, sums["sides"])[..., labelled].mean(-1)
        return {"gain": scores[..., 1] - scores[..., 0]}

    draws = bootstrap({"sides": sums}, gain, resamples=RESAMPLES, seed=seed)["gain"]
    return bool(gain({"sides": sums.sum(0)})["gain"] > 2 * draws.std())


def _coverage(error: Floats, fold: NDArray, folds: int) -> tuple[float, ...]:
    """Return the share of frames within the interval of the other folds, for valence and arousal."""
    covered = np.full(error.shape, np.nan)
    for number in range(folds):
        of_fold = fold == number
        if of_fold.any() and (~of_fold).any():
            covered[of_fold] = error[of_fold] <= np.nanquantile(error[~of_fold], COVERAGE, axis=0)
    covered[np.isnan(error)] = np.nan
    return tuple(np.nanmean(covered, 0).tolist())


def calibration_error(probability: Floats, target: NDArray, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable class (Guo et al. 2017).

    Args:
        probability: (n, classes).
        target: (n,) codes, none missing.
        bins: Number of bins of equal width.
    """
    confidence, is_right = probability.max(1), probability.argmax(1) == target
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, is_right - confidence, bins)).sum() / max(1, len(target)))
