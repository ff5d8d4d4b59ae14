"""The official ABAW measures of arrays, computed from sums that add up over videos.

Every measure is a function of sums over frames (moments, or counts of hits), so the sums of each video are kept and a
resample of videos is a weighted sum of them. The definitions are those of the ABAW challenges: CCC with population
moments over all frames; F1 of each declared class, absent ones included as 0; F1 of each AU's positive class. The
challenges declare eight classes; seven columns of probabilities declare the first seven, without Other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, PREDICTION_COLUMNS, VA

COLUMNS = {"va": VA, "expr": EXPRESSIONS, "au": ACTION_UNITS}
"""The columns that each task's score is the mean of."""

CLASS_SETS = (7, 8)
"""Numbers of expressions that a data set may declare: without and with Other."""

Floats = NDArray[np.float64]


def sums(
    task: str,
    pred: Sequence[NDArray],
    target: Sequence[NDArray],
    group: NDArray | None = None,
    groups: int = 1,
    thresholds: float | Sequence[float] | Floats = 0.5,
) -> Floats:
    """Sum up the frames of each group (a video, a fold), as the measures need it.

    Args:
        task: `va`, `expr` or `au`.
        pred: The task's prediction columns, (n,) each: 2 values, 7 or 8 probabilities (the declared classes), or 12.
        target: The task's label columns, (n,) each: 2 with NaN, 1 with -1, or 12 with NaN or -1 where missing.
        group: Each frame's group, (n,) integers from 0; one group by default.
        groups: Number of groups.
        thresholds: An AU is predicted if its probability reaches this; one number or twelve.

    Returns:
        (groups, 2, 7) moments, (groups, classes, classes) counts [truth, prediction], or (groups, 12, 4) counts
        [tn, fp, fn, tp].

    Raises:
        InputError: A prediction is not finite, or the columns do not fit each other.
    """
    widths = CLASS_SETS if task == "expr" else (len(PREDICTION_COLUMNS[task]),)
    if len(pred) not in widths or len(target) != (1 if task == "expr" else len(pred)):
        raise InputError(f"{task}: {len(pred)} prediction and {len(target)} label columns do not fit the task")
    for name, column in zip(PREDICTION_COLUMNS[task], pred, strict=False):
        _check(name, column, target[0])
    for name, column in zip(LABEL_COLUMNS[task], target, strict=True):
        if ((column < -1) | (column > (len(pred) - 1 if task == "expr" else 1))).any():
            raise InputError(f"{name}: a label is out of range; NaN (expression: -1) marks missing ones here")
    if group is None:
        group = np.zeros(len(pred[0]), np.intp)
    if task == "va":
        return np.stack([moments(p, t, group, groups) for p, t in zip(pred, target, strict=True)], axis=1)
    if task == "expr":
        return count(group, groups, target[0], len(pred), _argmax(pred), len(pred))
    cuts = np.broadcast_to(np.asarray(thresholds, float), 12)
    counts = [count(group, groups, t, 2, p >= cut, 2) for p, t, cut in zip(pred, target, cuts, strict=True)]
    return np.stack(counts, axis=1).reshape(groups, 12, 4)


def _argmax(columns: Sequence[NDArray]) -> NDArray[np.intp]:
    """Return the position of the highest of some columns, row by row, without a copy of them all."""
    highest, best = columns[0].astype(np.result_type(*columns)), np.zeros(len(columns[0]), np.intp)
    for i, column in enumerate(columns[1:], 1):
        higher = column > highest
        best[higher] = i
        np.maximum(highest, column, out=highest)
    return best


def count(group: NDArray, groups: int, truth: NDArray, truths: int, guess: NDArray, guesses: int) -> Floats:
    """Count (groups, truths, guesses); missing labels (NaN, -1) go to an extra row, which is dropped."""
    cell = group * (truths + 1)
    cell += np.where(truth >= 0, truth, -1).astype(np.intp) + 1
    cell *= guesses
    cell += guess
    size = groups * (truths + 1) * guesses
    return np.bincount(cell, minlength=size).reshape(groups, truths + 1, guesses)[:, 1:].astype(float)


def _check(name: str, pred: NDArray, target: NDArray) -> None:
    if pred.shape != target.shape or pred.ndim != 1:
        raise InputError(
            f"{name}: predictions {pred.shape} and labels {target.shape} do not fit; give one row per frame"
        )
    if not (finite := np.isfinite(pred)).all():
        raise InputError(f"{name}: {(~finite).sum()} predictions are not finite, first in row {finite.argmin()}")


def moments(pred: NDArray, target: NDArray, group: NDArray, groups: int) -> Floats:
    """Return (groups, 7): n, then the sums of p, t, p², t², pt about fixed shifts, and of pred - target."""
    valid = ~np.isnan(target)
    x, y, group = pred[valid].astype(float), target[valid].astype(float), group[valid]
    difference = x - y
    if len(x):
        # About their means the squares keep their digits; about the first value first, so that constants become 0.
        for column in (x, y):
            column -= column[0]
            column -= column.mean()
    # One product at a time: all of them together would dominate the memory of scoring.
    pairs = ((x, None), (y, None), (x, x), (y, y), (x, y), (difference, None))
    moments = [np.bincount(group, a if b is None else a * b, minlength=groups) for a, b in pairs]
    return np.stack([np.bincount(group, minlength=groups), *moments], axis=-1)


def values(task: str, sums: Floats) -> Floats:
    """Compute the measure of each column from its sums: (..., 2) CCC, (..., classes) or (..., 12) F1.

    A constant prediction or constant truth has CCC 0, a class or AU absent from both sides F1 0 (`zero_division=0`).
    """
    if task == "va":
        n = np.maximum(sums[..., 0], 1)
        mean_p, mean_t, square_p, square_t, product, difference = np.moveaxis(sums[..., 1:] / n[..., None], -1, 0)
        var_p, var_t = square_p - mean_p**2, square_t - mean_t**2
        # A variance of the size of the rounding errors is zero.
        varies = (var_p > 1e-13 * square_p) & (var_t > 1e-13 * square_t)
        numerator, denominator = 2 * (product - mean_p * mean_t), var_p + var_t + difference**2
        return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=varies)
    if task == "expr":
        hits = np.diagonal(sums, axis1=-2, axis2=-1)
        either = sums.sum(-1) + sums.sum(-2)
    else:
        hits = sums[..., 3]
        either = 2 * hits + sums[..., 1] + sums[..., 2]
    return np.divide(2 * hits, either, out=np.zeros_like(either), where=either > 0)


def labelled(task: str, sums: Floats) -> Floats:
    """Return the labelled frames of each column, (..., columns); the classes share one label."""
    if task == "va":
        return sums[..., 0]
    if task == "expr":
        return np.broadcast_to(sums.sum((-1, -2))[..., None], sums.shape[:-1])
    return sums.sum(-1)


def positives(task: str, sums: Floats) -> Floats:
    """Return the frames that show each class or AU, (..., classes or 12)."""
    return sums.sum(-1) if task == "expr" else sums[..., 2] + sums[..., 3]


def trivial_baseline(task: str, sums: Floats) -> tuple[float, str]:
    """Return the score of the best trivial predictor and what it predicts: constant V-A, one expression, all AUs."""
    if task == "va":
        return 0.0, "constant"
    count, n = positives(task, sums), labelled(task, sums)
    f1 = np.divide(2 * count, n + count, out=np.zeros_like(count), where=n > 0)
    if task == "expr":
        return float(f1.max() / len(f1)), f"always {EXPRESSIONS[int(f1.argmax())]}"
    return float(f1[n > 0].mean()), "all present"


def ccc(pred: ArrayLike, target: ArrayLike) -> float:
    """Compute the concordance correlation coefficient.

    CCC = 2 cov / (var_p + var_t + (mean_p - mean_t)²), with population moments.

    Args:
        pred: (n,) predictions.
        target: (n,) labels; NaN is missing.

    Returns:
        In [-1, 1]; 0 if either side is constant, NaN if nothing is labelled.

    Raises:
        InputError: A prediction is not finite, or the lengths differ.
    """
    p, t = np.asarray(pred, float), np.asarray(target, float)
    _check("ccc", p, t)
    total = moments(p, t, np.zeros(len(p), np.intp), 1)[0]
    return float(values("va", total)) if total[0] else float("nan")


def va_score(pred: ArrayLike, target: ArrayLike) -> dict[str, float]:
    """Compute P_VA, the mean CCC.

    Args:
        pred: (n, 2) valence and arousal.
        target: (n, 2) labels; NaN is missing, value by value.

    Returns:
        `va`, `valence`, `arousal`; NaN if nothing is labelled, and `va` is the mean of the labelled ones.

    Raises:
        InputError: A prediction is not finite, or the shapes differ.
    """
    return _score("va", pred, target)


def expr_score(prob: ArrayLike, target: ArrayLike) -> dict[str, float]:
    """Compute P_EXPR, the mean F1 of the classes, the class with the highest probability predicted.

    Args:
        prob: (n, 8) probabilities (or any scores); (n, 7) for data without Other, whose mean is over seven classes.
        target: (n,) codes from 0; -1 is missing.

    Returns:
        `expr` and each class; NaN if nothing is labelled.

    Raises:
        InputError: A prediction is not finite, or the shapes differ.
    """
    return _score("expr", prob, np.asarray(target)[:, None])


def au_score(prob: ArrayLike, target: ArrayLike, thresholds: float | Sequence[float] = 0.5) -> dict[str, float]:
    """Compute P_AU, the mean F1 of the AUs, each on the rows that are labelled for it.

    Args:
        prob: (n, 12) probabilities.
        target: (n, 12) labels 0 or 1; NaN or -1 is missing.
        thresholds: An AU is predicted if its probability reaches this; one number or twelve.

    Returns:
        `au` and each AU; NaN if nothing is labelled, and `au` is the mean of the labelled ones.

    Raises:
        InputError: A prediction is not finite, or the shapes differ.
    """
    return _score("au", prob, target, thresholds)


def _score(
    task: str, pred: ArrayLike, target: ArrayLike, thresholds: float | Sequence[float] = 0.5
) -> dict[str, float]:
    total = sums(task, list(np.asarray(pred).T), list(np.asarray(target).T), thresholds=thresholds)[0]
    is_labelled = labelled(task, total) > 0
    columns = np.where(is_labelled, values(task, total), np.nan)
    score = float(columns[is_labelled].mean()) if is_labelled.any() else float("nan")
    return {task: score, **dict(zip(COLUMNS[task], map(float, columns), strict=False))}


TASK_SCORES: dict[str, Callable[..., dict[str, float]]] = {"va": va_score, "expr": expr_score, "au": au_score}
"""Task -> function of predictions and labels that returns its score and the values of its columns."""
