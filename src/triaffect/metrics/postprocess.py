"""Post-processing of predictions: smoothing over frames, then one correction per task.

Predictions are smoothed over neighbouring frames. Then valence and arousal get the mean and spread of the labels,
expression probabilities a temperature and a bias per class, action units a threshold each. The result is again
predictions (the threshold of an AU becomes 0.5), so everything that reads predictions reads these as well.
`tuning.tune` fits it on labelled videos.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import provenance
from triaffect.data.predictions import save_predictions, tasks_of
from triaffect.io import InputError, write_text
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.metrics.matching import read_predictions
from triaffect.metrics.measures import Floats

EPSILON = 1e-6

FLOAT = np.finfo(float)
LIMITS = {"sigma": (0, 1000), "temperature": (FLOAT.tiny, FLOAT.max)}
"""Lowest and highest value of a setting in a file; any finite number for the others."""

NEVER = -1e4
"""Bias of an expression beyond the declared ones: its probability becomes 0."""


@dataclass(frozen=True)
class Correction:
    """Post-processing of one task; `sigma` is the width of the smoothing in frames, 0 for none."""

    sigma: float = 0.0

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> Self:
        """Fit on (n, columns) smoothed predictions and (n, labels) labels, NaN or -1 where missing."""
        raise NotImplementedError

    def apply(self, x: Floats) -> Floats:
        """Correct (n, columns) smoothed predictions."""
        raise NotImplementedError

    def without_effect(self) -> Self:
        """Return a copy that changes no score of smoothed predictions; sigma and temperature stay."""
        return type(self)(sigma=self.sigma)

    @classmethod
    def from_dict(cls, data: Any, name: str) -> Self:
        """Check and read plain data; `name` is what to call it in the InputError."""
        values: dict[str, Any] = {}
        for key, default in asdict(cls()).items():
            low, high = LIMITS.get(key, (FLOAT.min, FLOAT.max))
            try:
                value = np.asarray(data[key], float)
            except (KeyError, TypeError, ValueError):
                value = np.empty(0)
            if value.shape != np.shape(default) or not ((value >= low) & (value <= high)).all():
                raise InputError(f"{name}.{key}: must be {np.size(default)} valid number(s); run triaffect tune again")
            values[key] = tuple(value.tolist()) if value.ndim else float(value)
        return cls(**values)


@dataclass(frozen=True)
class VaScaling(Correction):
    """Valence and arousal become `scale` · x + `shift`; 90 % of frames are within `interval` of the label."""

    scale: tuple[float, ...] = (1.0, 1.0)
    shift: tuple[float, ...] = (0.0, 0.0)
    interval: tuple[float, ...] = (0.0, 0.0)

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> Self:
        """Match mean and spread of the labels: the line with the highest CCC, which then is the correlation."""
        scale, shift = np.ones(2), np.zeros(2)
        for i in range(2):
            p, t = x[~np.isnan(y[:, i]), i], y[~np.isnan(y[:, i]), i]
            if len(t) > 1 and p.std() > EPSILON and t.std() > EPSILON:
                scale[i] = t.std() / p.std()
                shift[i] = t.mean() - scale[i] * p.mean()
        return cls(scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))

    def apply(self, x: Floats) -> Floats:
        """Scale and shift, then clip to [-1, 1]."""
        return np.clip(x * np.array(self.scale) + np.array(self.shift), -1, 1)


@dataclass(frozen=True)
class ExprCalibration(Correction):
    """Log probabilities of the expressions are divided by `temperature`, then get a `bias` per class."""

    temperature: float = 1.0
    bias: tuple[float, ...] = (0.0,) * len(EXPRESSIONS)

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> Self:
        """Fit the temperature of the highest likelihood, then the biases of the highest macro F1, on 7 or 8 classes."""
        is_labelled = y[:, 0] >= 0
        scores, target = np.log(x[is_labelled].clip(EPSILON)), y[is_labelled, 0].astype(int)
        temperature = best_temperature(scores, target)
        biases = best_biases(scores / temperature, target) + [NEVER] * (len(EXPRESSIONS) - x.shape[1])
        return cls(temperature=temperature, bias=tuple(biases))

    def apply(self, x: Floats) -> Floats:
        """Divide by the temperature, add the biases, and normalise; `x` has the declared classes or all eight."""
        scores = np.log(x.clip(EPSILON)) / self.temperature + np.array(self.bias[: x.shape[1]])
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def without_effect(self) -> Self:
        """Return a copy without biases of the declared classes."""
        return replace(self, bias=tuple(NEVER if bias == NEVER else 0.0 for bias in self.bias))


@dataclass(frozen=True)
class AuThresholds(Correction):
    """Probabilities of the action units are moved so that each of `thresholds` becomes 0.5."""

    thresholds: tuple[float, ...] = (0.5,) * len(ACTION_UNITS)

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> Self:
        """Take the threshold of the highest F1 for each AU."""
        return cls(thresholds=tuple(best_threshold(x[:, i], y[:, i]) for i in range(len(ACTION_UNITS))))

    def apply(self, x: Floats) -> Floats:
        """Shift the log odds."""
        return 1 / (1 + np.exp(_logit(np.array(self.thresholds)) - _logit(x)))


CORRECTIONS: dict[str, type[Correction]] = {"va": VaScaling, "expr": ExprCalibration, "au": AuThresholds}


@dataclass(frozen=True)
class PostProcessing:
    """Post-processing of some tasks; `triaffect tune` writes it as JSON.

    Attributes:
        va: That of valence and arousal; None leaves the task as it is.
        expr: That of expressions.
        au: That of action units.
        source: Plain data on where it comes from: predictions, index, scores.
    """

    va: VaScaling | None = None
    expr: ExprCalibration | None = None
    au: AuThresholds | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, Correction]:
        """Task -> its correction."""
        return {task: correction for task in CORRECTIONS if (correction := getattr(self, task)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {**{task: asdict(correction) for task, correction in self.tasks.items()}, "source": self.source}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PostProcessing:
        """Read and check a file that `save` wrote.

        Raises:
            InputError: The file is missing, is not JSON, or contains something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as JSON ({error}); write it with triaffect tune") from None
        kinds = {task: kind for task, kind in CORRECTIONS.items() if isinstance(data, dict) and task in data}
        if not kinds:
            raise InputError(f"{path}: contains no task; write it with triaffect tune")
        corrections: Any = {task: kind.from_dict(data[task], f"{path}: {task}") for task, kind in kinds.items()}
        return cls(**corrections, source=data.get("source") or {})

    def apply(self, table: pl.DataFrame) -> pl.DataFrame:
        """Apply it to predictions.

        Args:
            table: Predictions with the key `image`, whose path ends in video/frame number; or rows of an analysis with
                `file`, `face` and `frame`. Rows of NaN stay as they are.

        Returns:
            The table with the columns of the common tasks replaced.
        """
        video, frame = frame_numbers(table)
        for task, correction in self.tasks.items():
            if task not in tasks_of(table):
                continue
            columns = PREDICTION_COLUMNS[task]
            values = smooth(table.select(columns).to_numpy().astype(float), video, frame, correction.sigma)
            corrected = correction.apply(values)
            table = table.with_columns(
                pl.Series(c, corrected[:, i]).cast(table.schema[c]) for i, c in enumerate(columns)
            )
        return table

    def apply_to_file(self, path: str | os.PathLike[str]) -> None:
        """Apply it to a predictions file, in place; the file's provenance says so."""
        table = self.apply(read_predictions(path))
        settings = {task: asdict(correction) for task, correction in self.tasks.items()}
        save_predictions(table, path, {**provenance(path), "post": settings})


# Fits -------------------------------------------------------------------------------------------------------------


def _logit(p: Floats) -> Floats:
    p = p.clip(EPSILON, 1 - EPSILON)
    return np.log(p / (1 - p))


def best_threshold(p: Floats, y: Floats) -> float:
    """Return the threshold with the highest F1, the nearest to 0.5 among equals.

    Args:
        p: (n,) probabilities of an AU.
        y: (n,) labels 0 or 1; -1 or NaN is missing.
    """
    p, y = p[y >= 0], y[y >= 0]
    if not y.any() or y.all():
        return 0.5
    cuts = np.unique(np.append(np.quantile(p, np.linspace(0, 1, 201)), 0.5))
    place = np.searchsorted(cuts, p, "right") - 1  # of the highest cut that p reaches
    hits, predicted = (np.bincount(place[place >= 0], w, len(cuts))[::-1].cumsum()[::-1] for w in (y[place >= 0], None))
    f1 = 2 * hits / (predicted + y.sum())
    return float(min(cuts[f1 >= f1.max() - 1e-12], key=lambda cut: abs(cut - 0.5)))


def best_temperature(scores: Floats, target: NDArray) -> float:
    """Return the T of the highest likelihood of softmax(scores / T) (Guo et al. 2017).

    Args:
        scores: (n, classes) log probabilities.
        target: (n,) codes.
    """
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


def best_biases(scores: Floats, target: NDArray, rounds: int = 3) -> list[float]:
    """Return what to add to each class's score for the highest macro F1, by exact line search class by class.

    Args:
        scores: (n, classes).
        target: (n,) codes.
        rounds: Maximum number of rounds over all classes.
    """
    classes = scores.shape[1]
    bias, count = np.zeros(classes), np.bincount(target, minlength=classes)
    rows = np.arange(len(target))
    for _ in range(rounds if len(target) else 0):
        before = bias.copy()
        for c in np.flatnonzero(count):
            others = scores + bias
            others[:, c] = -np.inf
            rival = others.argmax(1)
            need = others[rows, rival] - scores[:, c]  # the bias from which on c is predicted for the frame
            order = np.argsort(need, kind="stable")
            # Hits and predictions of every class after the first i frames have changed to c.
            hits = np.zeros((len(target) + 1, classes))
            predicted = np.zeros_like(hits)
            predicted[0] = np.bincount(rival, minlength=classes)
            hits[0] = np.bincount(rival[rival == target], None, classes)
            rivals = np.eye(classes)[rival[order]]
            predicted[1:] = predicted[0] - rivals.cumsum(0)
            hits[1:] = hits[0] - (rivals * (rival == target)[order, None]).cumsum(0)
            predicted[:, c] = np.arange(len(target) + 1)
            hits[1:, c], hits[0, c] = (target[order] == c).cumsum(), 0
            f1 = (2 * hits / np.maximum(predicted + count, 1)).mean(1)
            edges = np.concatenate([[need[order[0]] - 1], need[order], [need[order[-1]] + 1]])
            middle = (edges[:-1] + edges[1:]) / 2  # between two frames, away from ties
            best = np.where(edges[1:] > edges[:-1], f1, -1)
            if best.max() > f1[np.searchsorted(need[order], bias[c], "right")] + 1e-9:
                near = np.flatnonzero(best >= best.max() - 1e-12)
                bias[c] = middle[min(near, key=lambda i: abs(middle[i] - bias[c]))]
        if (bias == before).all():
            break
    return (bias - bias.mean()).tolist()


# Smoothing --------------------------------------------------------------------------------------------------------


def smooth(values: Floats, video: NDArray, frame: NDArray, sigma: float) -> Floats:
    """Return the Gaussian mean over neighbouring frames of the same video, weighted by their distance in frames.

    Missing values (a gap, the end of a video, NaN) have no weight. At a constant distance, away from the ends, this is
    `scipy.ndimage.gaussian_filter1d`, with the same reach of 4 sigma.

    Args:
        values: (n, columns).
        video: (n,) integers.
        frame: (n,) integers.
        sigma: Standard deviation in frames; 0 changes nothing.
    """
    reach, out = int(4 * sigma + 0.5), np.array(values, float)
    if not reach or len(out) < 2:
        return out
    order = np.lexsort((frame, video))
    # One long line of all videos: distances beyond the reach are cut to just beyond it, also between videos.
    step = np.minimum(np.diff(frame[order].astype(np.int64)), reach + 1)
    step[np.diff(video[order]) != 0] = reach + 1
    far = np.concatenate([[True], step > reach, [True]])
    order, step = order[~(far[:-1] & far[1:])], np.concatenate([[reach + 1], step])[~(far[:-1] & far[1:])]
    if not len(order):
        return out
    place = np.cumsum(step) - step[0]
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for column in out.T:
        is_finite = np.isfinite(column[order])
        total, weight = (
            np.convolve(np.bincount(place, terms), bell)[reach:-reach][place]
            for terms in (np.where(is_finite, column[order], 0), is_finite)
        )
        column[order] = np.where(is_finite, total / np.maximum(weight, 1e-300), column[order])
    return out


def frame_numbers(table: pl.DataFrame) -> tuple[NDArray, NDArray]:
    """Return video and frame of each row: from `file`, `face` and `frame` of an analysis, or from the image's path."""
    if {"file", "frame"} <= set(table.columns):
        keys, frame = [pl.col(c) for c in ("file", "face") if c in table.columns], pl.col("frame")
    else:
        parts = pl.col("image").str.extract_groups(r"^(.*?)([0-9]{1,9})\.[^./]*$")
        frame = parts.struct["2"].cast(pl.Int64)
        keys = [pl.coalesce(parts.struct["1"], "image").alias("video")]
    rows = table.select(pl.struct(keys).rank("dense").alias("video"), frame.fill_null(0).alias("frame"))
    return rows["video"].to_numpy().astype(np.int64), rows["frame"].to_numpy()
