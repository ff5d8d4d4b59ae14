"""What is done to predictions after the model, fitted on labelled videos without leaking.

A task's predictions are smoothed over neighbouring frames; then valence and arousal get the mean and spread of the
labels, expression probabilities a temperature and a bias for each class, action units a threshold each. All of it is
worked into the numbers (a threshold becomes .5), so whatever reads predictions reads these as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import provenance
from triaffect.data.predictions import save_predictions, tasks_of
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.metrics.matching import read_predictions
from triaffect.metrics.smoothing import frames_of, smooth

Floats = NDArray[np.float64]
Post = dict[str, Any]
"""Task -> `sigma` (frames) and `scale`, `shift`, `interval` (2 each), or `temperature`, `bias` (8), or `thresholds`
(12): what `tune` finds, `apply` does and `post.json` holds. Its key `made` says where it comes from."""

TINY = 1e-6
SIZES = {
    "va": {"scale": 2, "shift": 2, "interval": 2},
    "expr": {"temperature": 0, "bias": len(EXPRESSIONS)},
    "au": {"thresholds": len(ACTION_UNITS)},
}
PLAIN: dict[str, Post] = {
    "va": {"scale": [1.0] * 2, "shift": [0.0] * 2},
    "expr": {"bias": [0.0] * len(EXPRESSIONS)},
    "au": {"thresholds": [0.5] * len(ACTION_UNITS)},
}
"""A fit that changes no score."""


# One task ---------------------------------------------------------------------------------------------------------


def fit(task: str, x: Floats, y: Floats) -> Post:
    """What is fitted after smoothing; x (n, columns) predictions, y (n, labels) with NaN or -1 where missing."""
    if task == "va":
        return _match_moments(x, y)
    if task == "au":
        return {"thresholds": [_threshold(x[:, i], y[:, i]) for i in range(len(ACTION_UNITS))]}
    known = y[:, 0] >= 0
    x, target = np.log(x[known].clip(TINY)), y[known, 0].astype(int)
    temperature = _temperature(x, target)
    return {"temperature": temperature, "bias": _biases(x / temperature, target)}


def run(task: str, x: Floats, post: Mapping[str, Any]) -> Floats:
    """Applies what `fit` found."""
    if task == "va":
        return np.clip(x * np.array(post["scale"]) + np.array(post["shift"]), -1, 1)
    if task == "au":
        return 1 / (1 + np.exp(_logit(np.array(post["thresholds"])) - _logit(x)))
    scores = np.log(x.clip(TINY)) / post["temperature"] + np.array(post["bias"])
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _logit(p: Floats) -> Floats:
    p = p.clip(TINY, 1 - TINY)
    return np.log(p / (1 - p))


def _match_moments(x: Floats, y: Floats) -> Post:
    """Mean and spread of the labels: the best that a line can do for the CCC, which then is the correlation."""
    scale, shift = np.ones(2), np.zeros(2)
    for i in range(2):
        p, t = x[~np.isnan(y[:, i]), i], y[~np.isnan(y[:, i]), i]
        if len(t) > 1 and p.std() > TINY and t.std() > TINY:
            scale[i] = t.std() / p.std()
            shift[i] = t.mean() - scale[i] * p.mean()
    return {"scale": scale.tolist(), "shift": shift.tolist()}


def _threshold(p: Floats, y: Floats) -> float:
    """The probability from which on the AU is best said to be there (F1), .5 among equals."""
    p, y = p[y >= 0], y[y >= 0]
    if not y.any() or y.all():
        return 0.5
    cuts = np.unique(np.append(np.quantile(p, np.linspace(0, 1, 201)), 0.5))
    place = np.searchsorted(cuts, p, "right") - 1  # of the highest cut that p reaches
    hits, said = (np.bincount(place[place >= 0], w, len(cuts))[::-1].cumsum()[::-1] for w in (y[place >= 0], None))
    f1 = 2 * hits / (said + y.sum())
    return float(min(cuts[f1 >= f1.max() - 1e-12], key=lambda cut: abs(cut - 0.5)))


def _temperature(scores: Floats, target: NDArray) -> float:
    """The T for which softmax(scores / T) is likeliest (Guo et al. 2017)."""
    if not len(target):
        return 1.0

    def cost(log_t: float) -> float:
        z = scores / np.exp(log_t)
        return float(np.mean(np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), target]))

    # Golden section: the likelihood is concave in 1/T, so there is one minimum.
    low, high, part = -3.0, 3.0, (5**0.5 - 1) / 2
    for _ in range(30):
        a, b = high - part * (high - low), low + part * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return float(np.exp((low + high) / 2))


def _biases(scores: Floats, target: NDArray, rounds: int = 3) -> list[float]:
    """What to add to each class's score for the best macro F1; one class after the other, exactly along each line."""
    classes = scores.shape[1]
    bias, count = np.zeros(classes), np.bincount(target, minlength=classes)
    rows = np.arange(len(target))
    for _ in range(rounds if len(target) else 0):
        before = bias.copy()
        for c in np.flatnonzero(count):
            others = scores + bias
            others[:, c] = -np.inf
            rival = others.argmax(1)
            need = others[rows, rival] - scores[:, c]  # the bias from which on the frame is said to be c
            order = np.argsort(need, kind="stable")
            # After the first i frames have gone over to c: hits and sayings of every class.
            hits = np.zeros((len(target) + 1, classes))
            said = np.zeros_like(hits)
            said[0], hits[0] = np.bincount(rival, minlength=classes), np.bincount(rival[rival == target], None, classes)
            moves = np.eye(classes)
            left = moves[rival[order]]
            said[1:] = said[0] - left.cumsum(0)
            hits[1:] = hits[0] - (left * (rival == target)[order, None]).cumsum(0)
            said[:, c] = np.arange(len(target) + 1)
            hits[1:, c], hits[0, c] = (target[order] == c).cumsum(), 0
            f1 = (2 * hits / np.maximum(said + count, 1)).mean(1)
            edges = np.concatenate([[need[order[0]] - 1], need[order], [need[order[-1]] + 1]])
            middle = (edges[:-1] + edges[1:]) / 2  # between two frames, away from ties
            gap = edges[1:] > edges[:-1]
            now = f1[np.searchsorted(need[order], bias[c], "right")]
            best = np.where(gap, f1, -1)
            if best.max() > now + 1e-9:
                near = np.flatnonzero(best >= best.max() - 1e-12)
                bias[c] = middle[min(near, key=lambda i: abs(middle[i] - bias[c]))]
        if (bias == before).all():
            break
    return (bias - bias.mean()).tolist()


# Files ------------------------------------------------------------------------------------------------------------


def load_post(path: str | os.PathLike[str]) -> Post:
    """Reads and checks a `post.json`.

    Raises:
        InputError: It is missing, is not JSON, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); write it with triaffect tune") from None
    tasks = [task for task in SIZES if isinstance(found, dict) and task in found]
    if not tasks:
        raise InputError(f"{path}: holds no task; write it with triaffect tune")
    for task in tasks:
        for key, size in {"sigma": 0, **SIZES[task]}.items():
            try:
                value = np.asarray(found[task][key], float)
                good = value.shape == ((size,) if size else ()) and np.isfinite(value).all()
            except (KeyError, TypeError, ValueError):
                good = False
            if not good or (key == "sigma" and not 0 <= value <= 1000) or (key == "temperature" and value <= 0):
                raise InputError(f"{path}: {task}.{key} is not {size or 1} fitting number(s); run triaffect tune again")
    return found


def apply(table: pl.DataFrame, post: Post | str | os.PathLike[str]) -> pl.DataFrame:
    """Applies post-processing to predictions.

    Args:
        table: Predictions, keyed by `image` whose path ends in video/frame number; or rows of an analysis with `file`,
            `face` and `frame`. Rows of NaN stay as they are.
        post: From `tune` or `load_post`, or the file.

    Returns:
        The table with the columns of the tasks that both hold replaced.

    Raises:
        InputError: As `load_post`.
    """
    known = post if isinstance(post, dict) else load_post(post)
    video, frame = frames_of(table)
    for task in (t for t in tasks_of(table) if t in known):
        columns = PREDICTION_COLUMNS[task]
        values = table.select(columns).to_numpy().astype(float)
        found = run(task, smooth(values, video, frame, known[task]["sigma"]), known[task])
        table = table.with_columns(pl.Series(c, found[:, i]).cast(table.schema[c]) for i, c in enumerate(columns))
    return table


def apply_file(path: str | os.PathLike[str], post: Post | str | os.PathLike[str]) -> None:
    """Applies post-processing to a predictions file, in place; its provenance says so."""
    table, known = read_predictions(path), post if isinstance(post, dict) else load_post(post)
    save_predictions(
        apply(table, known), path, {**provenance(path), "post": {k: known[k] for k in known if k != "made"}}
    )
