"""Panels of the report: small figures without titles, legible at the width of a phone.

They contain no names from data files; the page writes those next to them, escaped. The page replaces the colours of
style.py by its own for light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from triaffect.labels import ACTION_UNITS, EXPRESSIONS, TASK_NAMES, TASKS, VA, loss_key, score_key
from triaffect.report.style import GRID, INK, PAPER, SERIES, SOFT, tidy

NARROW, WIDE = 3.25, 4.9
"""Inches: three narrow or two wide panels fit side by side on a wide page, one on a phone."""

CLASS_COLOURS = ("#c2c9d0", "#c0504d", "#7d8c3b", "#7b5ea7", "#e0a030", "#3f7fb5", "#4fa899", "#857b72")
"""Of the eight expressions, in their order; visible on a light and on a dark page."""

SHADES = LinearSegmentedColormap.from_list("shades", [(*to_rgb(SERIES[0]), alpha) for alpha in (0.14, 0.5, 1.0)])
"""One colour with rising opacity, for a light and a dark page."""

COLUMNS = 400
"""Maximum number of columns of a time line; of more frames, every few are drawn."""


def _panel(height: float, width: float = NARROW) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.04)
    return Figure(figsize=(width, height), layout=layout, facecolor="none")


def _square(axes: Axes, x: str, y: str) -> None:
    tidy(axes, x, y)
    axes.spines[:].set(visible=True, color=GRID)
    ticks = [-1, -0.5, 0, 0.5, 1]
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xticks=ticks, yticks=ticks, aspect="equal")
    for line in (axes.axhline, axes.axvline):
        line(0, color=GRID, linewidth=0.8, zorder=0)


def va_agreement(pred: ArrayLike, target: ArrayLike, name: str) -> Figure:
    """Draw one dot per frame, label (x) against prediction (y).

    Args:
        pred: (n,) predictions.
        target: (n,) labels; NaN is missing.
        name: valence or arousal.
    """
    p, t = np.asarray(pred, float), np.asarray(target, float)
    figure = _panel(3.1)
    axes = figure.subplots()
    _square(axes, f"{name}, label", f"{name}, prediction")
    axes.plot([-1, 1], [-1, 1], color=SERIES[1], linewidth=1.2, zorder=4)
    opacity = float(np.clip(12 / np.sqrt(max(1, len(t))), 0.05, 0.5))
    axes.scatter(t, p, 9, SERIES[0], alpha=opacity, linewidths=0, rasterized=True, zorder=3)
    return figure


def circumplex(axes: Axes, counts: ArrayLike) -> Any:
    """Draw the density of valence (x) and arousal (y): (bins, bins) counts over [-1, 1]², arousal first."""
    frames = np.asarray(counts, float)
    _square(axes, "valence (negative to positive)", "arousal (calm to active)")
    angle = np.linspace(0, 2 * np.pi, 120)
    axes.plot(np.cos(angle), np.sin(angle), color=GRID, linewidth=0.8)
    norm, cells = LogNorm(1, max(10, frames.max())), np.ma.masked_less(frames, 0.5)
    return axes.imshow(cells, SHADES, norm, extent=(-1, 1, -1, 1), origin="lower", interpolation="none")


def va_density(valence: ArrayLike, arousal: ArrayLike) -> Figure:
    """Draw the density of (n,) values of each, in [-1, 1]."""
    counts = np.histogram2d(np.asarray(arousal, float), np.asarray(valence, float), 28, [[-1, 1], [-1, 1]])[0]
    figure = _panel(3.1)
    circumplex(figure.subplots(), counts)
    return figure


def confusion(counts: ArrayLike) -> Figure:
    """Draw the confusion matrix of the expressions, as shares of the frames with the label.

    Args:
        counts: (classes, classes) frames, label in rows, prediction in columns.
    """
    frames = np.asarray(counts, float)
    share = frames / np.maximum(frames.sum(1, keepdims=True), 1)
    figure = _panel(3.4)
    axes = tidy(figure.subplots(), "prediction", "label")
    for (i, j), value in np.ndenumerate(share):
        cell = (j - 0.47, i - 0.47)
        axes.add_patch(Rectangle(cell, 0.94, 0.94, facecolor=SERIES[0], alpha=max(0.05, value), linewidth=0))
        if value >= 0.005:
            colour = PAPER if value > 0.55 else INK
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    names, end = EXPRESSIONS[: len(share)], len(share) - 0.5
    axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect="equal")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    return figure


def timeline(
    frame: ArrayLike, label: Mapping[str, NDArray[np.float64]], predicted: Mapping[str, NDArray[np.float64]]
) -> Figure:
    """Draw a video over time: valence, arousal, expressions as bands, AUs as bands.

    Args:
        frame: (n,) frame numbers, rising.
        label: `va` (n, 2), `expr` (n,) codes, `au` (n, 12) of 0 and 1; NaN is missing. Any task may be left out.
        predicted: The same of the prediction.
    """
    frame = np.asarray(frame)
    at = np.linspace(frame[0], frame[-1], min(COLUMNS, int(frame[-1] - frame[0]) + 1))
    place = np.searchsorted((frame[1:] + frame[:-1]) / 2, at)
    step = float(np.median(np.diff(frame))) if len(frame) > 1 else 1.0
    far = abs(frame[place] - at) > 1.5 * max(step, (frame[-1] - frame[0]) / len(at))  # a gap stays a gap

    def drawn(task: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        between = np.stack([np.interp(at, frame, row) for row in values.T]) if task == "va" else values[place].T
        return np.where(far, np.nan, between)

    sides = [{task: drawn(task, side[task]) for task in label} for side in (label, predicted)]
    heights = {"va": [1.0, 1.0], "expr": [0.55], "au": [2.3]}
    ratios = [height for task in label for height in heights[task]]
    figure = _panel(0.4 + 0.82 * sum(ratios), WIDE)
    panels = iter(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0])
    edges = (at[0] - 0.5, at[-1] + 0.5)
    truth, guess = sides
    for i, name in enumerate(VA if "va" in label else ()):
        axes = tidy(next(panels), "", name, "", "y")
        axes.plot(at, truth["va"][i], color=INK, linewidth=1.3)
        axes.plot(at, guess["va"][i], color=SERIES[0], linewidth=1.3)
        axes.set(ylim=(-1.05, 1.05), yticks=[-1, 0, 1])
    if "expr" in label:
        axes = tidy(next(panels))
        _ribbons(axes, np.stack([truth["expr"], guess["expr"]]), [(colour, 1) for colour in CLASS_COLOURS], edges)
        axes.set_yticks([0, 1], ["label", "predicted"])
    if "au" in label:
        axes = tidy(next(panels))
        # 0 neither, 1 missed, 2 false alarm, 3 hit
        code = np.where(np.isnan(truth["au"]), np.nan, truth["au"] + 2 * guess["au"])
        _ribbons(axes, code, [(SOFT, 0.08), (SERIES[0], 0.35), (SERIES[1], 1), (SERIES[0], 1)], edges)
        axes.set_yticks(range(12), ACTION_UNITS, fontsize=8)
    axes.set_xlabel("frame", fontsize=9, color=SOFT)
    axes.set_xlim(edges)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.align_ylabels()
    return figure


def _ribbons(axes: Axes, code: NDArray[np.float64], colours: Sequence[Any], edges: tuple[float, float]) -> None:
    """Draw rows of codes as bands, one vector shape per colour, so that the page can replace the colours."""
    rows, columns = code.shape
    x = np.linspace(*edges, columns + 1)
    shapes: list[list[Any]] = [[] for _ in colours]
    for row, values in enumerate(np.where(np.isnan(code), -1, code).astype(int)):
        starts = np.flatnonzero(np.diff(values, prepend=-2))
        for start, end in zip(starts, [*starts[1:], columns], strict=True):
            if (value := values[start]) >= 0:
                corners = [(x[start], row - 0.45), (x[end], row - 0.45), (x[end], row + 0.45), (x[start], row + 0.45)]
                shapes[value].append(Outline([*corners, corners[0]], closed=True))
    for shape, (colour, alpha) in zip(shapes, colours, strict=True):
        if shape:
            axes.add_patch(PathPatch(Outline.make_compound_path(*shape), facecolor=colour, alpha=alpha, linewidth=0))
    axes.set_ylim(rows - 0.5, -0.5)


def progress(runs: Sequence[tuple[ArrayLike, ArrayLike, int | None]]) -> Figure:
    """Draw a validation score of several runs by epoch, with a dot where a run reaches 90 % of its best.

    Args:
        runs: Epochs, scores, and the epoch of the dot; the look of the n-th is `line_style(n)`.
    """
    figure = _panel(2.3)
    axes = tidy(figure.subplots(), "epoch", "validation score", "", "y")
    for i, (epochs, values, reached) in enumerate(runs):
        epoch, score = np.asarray(epochs), np.asarray(values, float)
        colour, dashes, _ = line_style(i)
        marker = "." if len(score) < 3 else ""
        axes.plot(epoch, score, color=colour, linestyle=dashes, linewidth=1.6, marker=marker)
        if reached is not None:
            axes.plot([reached], score[epoch == reached][:1], "o", color=colour, markersize=5.5, markeredgecolor=PAPER)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def line_style(number: int) -> tuple[str, Any, str]:
    """Return colour, dashes and their name in CSS of the n-th of several lines."""
    dashes = (("-", "solid"), ((0, (4, 2)), "dashed"), ((0, (1, 1.6)), "dotted"))
    return SERIES[number % len(SERIES)], *dashes[number // len(SERIES) % len(dashes)]


def run_curves(metrics: pl.DataFrame, kept_row: int | None = None) -> Figure:
    """Draw the curves of a run from its `metrics.csv`; `kept` is the row of the epoch whose model is kept."""
    drawn = len(_curves(metrics))
    figure = _panel(0.5 + 1.5 * -(-drawn // 2), WIDE)
    draw_run(figure, metrics, kept_row)
    return figure


COSINE = "train/cosine_"
"""Begins the columns of the cosine between the gradients of two tasks, such as `train/cosine_va_expr`."""

Curves = dict[str, list[tuple[str, str, str, str]]]
"""Title of a panel -> column, colour, line style and name of each of its lines."""


def _curves(metrics: pl.DataFrame) -> Curves:
    """Return the panels of a run: losses, accuracy, CCC, scores, the gradients' cosines; without absent columns."""

    def both(key: Callable[[str], str]) -> list[tuple[str, str, str, str]]:
        return [(key("train"), SOFT, "--", "training"), (key("val"), INK, "-", "validation")]

    tasks = [task for task in TASKS if score_key(task) in metrics.columns]
    panels: Curves = {"loss": both(loss_key)}
    if len(tasks) > 1:
        panels |= {f"loss, {TASK_NAMES[task]}": both(partial(loss_key, task=task)) for task in tasks}
    panels["expression accuracy"] = both(partial(score_key, "accuracy"))
    panels["CCC"] = [(score_key(name), SERIES[i], "-", name) for i, name in enumerate(VA)]
    panels["validation score"] = [(score_key(t), SERIES[TASKS.index(t)], "-", TASK_NAMES[t]) for t in tasks]
    pairs = [(COSINE + f"{a}_{b}", f"{a}, {b}") for a, b in combinations(TASKS, 2)]  # below 0 the tasks conflict
    panels["cosine of the gradients"] = [(column, SERIES[i], "-", pair) for i, (column, pair) in enumerate(pairs)]
    present = {title: [line for line in lines if line[0] in metrics.columns] for title, lines in panels.items()}
    return {title: lines for title, lines in present.items() if lines}


def draw_run(figure: Figure, metrics: pl.DataFrame, kept_row: int | None = None) -> None:
    """Draw every curve of a run into a figure of two columns, and a line at the epoch whose model is kept."""
    curves = _curves(metrics)
    cells = figure.subplots(-(-len(curves) // 2), 2, sharex=True, squeeze=False).ravel()
    for axes, (title, lines) in zip(cells, curves.items(), strict=False):
        is_last = axes in cells[: len(curves)][-2:]
        tidy(axes, "epoch" if is_last else "", title, "", "y").tick_params(labelbottom=is_last)
        for column, colour, dashes, name in lines:
            values = metrics[column].cast(pl.Float64, strict=False).to_numpy()
            marker = "." if len(values) < 3 else ""
            axes.plot(metrics["epoch"], values, color=colour, ls=dashes, linewidth=1.5, marker=marker, label=name)
        if kept_row is not None:
            axes.axvline(metrics["epoch"][kept_row], color=SERIES[1], linewidth=1, linestyle=(0, (1, 2)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in cells[len(curves) :]:
        axes.axis("off")


def lambda_curve(share: ArrayLike, score: ArrayLike, paper: float, tuned: float | None) -> Figure:
    """Draw the fused score at every λ: dashed the paper's λ, a dot at the tuned one.

    Args:
        share: (n,) λ, rising.
        score: (n,) official score.
        paper: The paper's λ.
        tuned: The tuned λ.
    """
    x, y = np.asarray(share, float), np.asarray(score, float)
    figure = _panel(2.2)
    axes = tidy(figure.subplots(), "λ (0: multi-task alone, 1: single-task alone)", "score", "", "y")
    axes.axvline(paper, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, color=SERIES[0], linewidth=1.8)
    if tuned is not None:
        axes.plot([tuned], [np.interp(tuned, x, y)], "o", color=SERIES[1], markersize=7, markeredgecolor=PAPER)
    axes.set(xlim=(-0.03, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.margins(y=0.15)
    return figure


def shares(names: Sequence[str], series: Sequence[Sequence[float | None]]) -> Figure:
    """Draw horizontal bars of shares in [0, 1], one colour per series.

    Args:
        names: Names, from the top; not from data files.
        series: One share per name; None if unknown.
    """
    figure = _panel(0.5 + 0.26 * len(names))
    axes = tidy(figure.subplots(), "", grid="x")
    bars(axes, names, series)
    axes.margins(y=0.01)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def bars(axes: Axes, names: Sequence[str], series: Sequence[Sequence[float | None]]) -> list[Any]:
    """Draw one group of bars per name, from the top, with one bar per series; return the bars of each series."""
    place, thick = np.arange(len(names)), 0.8 / len(series)
    drawn = []
    for i, values in enumerate(series):
        at = place + (i - (len(series) - 1) / 2) * thick
        lengths = np.nan_to_num(np.array(values, float))
        drawn.append(axes.barh(at, lengths, thick * 0.87, color=SERIES[i % len(SERIES)]))
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return drawn


def trials(scores: Sequence[float | None]) -> Figure:
    """Draw the score of each trial of a search, and the best so far.

    Args:
        scores: In the order of the trials; None for a failed one.
    """
    values = np.array(scores, float)
    figure = _panel(2.3, WIDE)
    axes = tidy(figure.subplots(), "trial", "score", "", "y")
    best = np.fmax.accumulate(values)
    axes.step(np.arange(len(values)), best, where="post", color=SERIES[1], linewidth=1.4)
    axes.plot(np.arange(len(values)), values, "o", color=SERIES[0], markersize=5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure
