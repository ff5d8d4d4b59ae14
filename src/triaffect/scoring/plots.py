"""Tables as pictures: each function returns a matplotlib Figure, made without pyplot and its global state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, TASK_NAMES, TASKS, VA
from triaffect.scoring.contact import contact_sheet
from triaffect.scoring.fusion import DEFAULT_LAMBDAS
from triaffect.scoring.measures import ccc
from triaffect.scoring.style import GRID, INK, PAPER, SEQUENTIAL, SERIES, SOFT, legend, page, save_figure, tidy

if TYPE_CHECKING:
    from triaffect.scoring.metrics import Scores

__all__ = [
    "au_prevalence",
    "confusion_matrix",
    "contact_sheet",
    "expression_balance",
    "f1_bars",
    "lambda_curves",
    "missing_rates",
    "save_figure",
    "statistics_figures",
    "training_curves",
    "va_density",
    "va_scatter",
]


def _bars(
    names: Sequence[str], series: Mapping[str, ArrayLike], title: str, x: str, labels: Mapping[str, Sequence[str]]
) -> Figure:
    """Horizontal bars, one group a name (from the top) and one bar a series; values are shares in [0, 1]."""
    thick = 0.8 / len(series)
    figure = page(7.2, 1.2 + len(names) * max(0.3, 0.2 * len(series)), title)
    axes = tidy(figure.subplots(), x=x, grid="x")
    place = np.arange(len(names))
    for i, (name, values) in enumerate(series.items()):
        shown = np.nan_to_num(np.array(values, float))
        at = place + (i - (len(series) - 1) / 2) * thick
        bars = axes.barh(at, shown, thick * 0.88, color=SERIES[i % len(SERIES)], label=name)
        axes.bar_label(bars, labels[name], padding=4, fontsize=8, color=SOFT)
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.margins(x=0.14, y=0.02)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if len(series) > 1:
        legend(axes, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(series), borderaxespad=0)
    return figure


def expression_balance(counts: Mapping[str, Sequence[int]]) -> Figure:
    """How often each class is labelled.

    Args:
        counts: Split -> eight counts of frames.
    """
    shares = {split: np.array(n) / max(1, sum(n)) for split, n in counts.items()}
    labels = {split: [f"{v:,}" for v in n] for split, n in counts.items()}
    return _bars(EXPRESSIONS, shares, "Expressions", "share of the labelled frames; beside the bars, frames", labels)


def au_prevalence(rates: Mapping[str, Sequence[float | None]]) -> Figure:
    """How often each AU is present.

    Args:
        rates: Split -> twelve shares of the AU's labelled frames, None (or NaN) where there are none.
    """
    clean = {split: [np.nan if v is None else v for v in row] for split, row in rates.items()}
    labels = {split: ["not labelled" if np.isnan(v) else f"{v:.1%}" for v in row] for split, row in clean.items()}
    names = [f"{AU_NAMES[unit]}  {unit}" for unit in ACTION_UNITS]
    return _bars(names, clean, "Action units", "present, share of the AU's labelled frames", labels)


def missing_rates(rates: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much of each label is missing.

    Args:
        rates: Split -> label -> share of the frames, the same labels in each split.
    """
    names = list(next(iter(rates.values())))
    shares = {split: [row[name] for name in names] for split, row in rates.items()}
    labels = {split: [f"{v:.1%}" for v in row] for split, row in shares.items()}
    return _bars(names, shares, "Missing labels", "share of the frames", labels)


def _circumplex(axes: Axes, histogram: ArrayLike, title: str) -> Any:
    counts = np.asarray(histogram, float)
    edges = np.linspace(-1, 1, len(counts) + 1)
    turn = np.linspace(0, 2 * np.pi, 200)
    tidy(axes, "valence (negative to positive)", "arousal (calm to active)", title)
    axes.plot(np.cos(turn), np.sin(turn), color=SOFT, linewidth=0.8, alpha=0.5, zorder=3)
    mesh = axes.pcolormesh(
        edges, edges, np.ma.masked_less(counts.T, 0.5), cmap=SEQUENTIAL, norm=LogNorm(1, max(10, counts.max()))
    )
    for line in (axes.axhline, axes.axvline):
        line(0, color=SOFT, linewidth=0.8, alpha=0.5)
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xticks=[-1, -0.5, 0, 0.5, 1], yticks=[-1, -0.5, 0, 0.5, 1])
    axes.set_aspect("equal")
    axes.spines[:].set(visible=True, color=GRID)
    return mesh


def va_density(histograms: Mapping[str, ArrayLike]) -> Figure:
    """Where the labels lie on the circumplex.

    Args:
        histograms: Split -> (bins, bins) counts over [-1, 1]², valence first.
    """
    figure = page(0.9 + 4.1 * len(histograms), 4.4, "Valence and arousal")
    panels = figure.subplots(1, len(histograms), squeeze=False)[0]
    for axes, (split, counts) in zip(panels, histograms.items(), strict=True):
        title = f"{split}: {int(np.sum(counts)):,} frames"
        bar = figure.colorbar(_circumplex(axes, counts, title), ax=axes, shrink=0.8, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_ticks([tick for tick in (10**i * j for i in range(8) for j in (1, 3)) if tick <= np.max(counts)])
        bar.formatter = StrMethodFormatter("{x:,.0f}")
        bar.minorticks_off()
        bar.ax.tick_params(length=0, which="both", labelsize=8, labelcolor=SOFT)
        bar.set_label("frames a cell", fontsize=8, color=SOFT)
    return figure


def statistics_figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """The pictures of an index.

    Args:
        found: From `annotations.statistics.statistics`.

    Returns:
        `expressions`, `action_units`, `va_density` (each where a split has the labels) and `missing`.
    """
    figures = {}
    if counts := {split: [row["frames"] for row in of["expr"].values()] for split, of in found.items() if "expr" in of}:
        figures["expressions"] = expression_balance(counts)
    if rates := {split: [row["rate"] for row in of["au"].values()] for split, of in found.items() if "au" in of}:
        figures["action_units"] = au_prevalence(rates)
    if densities := {split: of["va"]["density"] for split, of in found.items() if "va" in of}:
        figures["va_density"] = va_density(densities)
    missing = {split: dict(of["missing"]) for split, of in found.items()}
    if all(len({row[unit] for unit in ACTION_UNITS}) == 1 for row in missing.values()):
        for row in missing.values():  # one line for twelve alike
            row["action units"] = max(row.pop(unit) for unit in ACTION_UNITS)
    figures["missing"] = missing_rates(missing)
    return figures


def va_scatter(pred: ArrayLike, target: ArrayLike) -> Figure:
    """Predictions against labels, as densities.

    Args:
        pred: (n, 2) valence and arousal.
        target: (n, 2) labels; NaN is missing.
    """
    p, t = np.asarray(pred, float), np.asarray(target, float)
    figure = page(8.6, 4.6, "Valence and arousal, prediction against label")
    for i, (axes, name) in enumerate(zip(figure.subplots(1, 2), VA, strict=True)):
        valid = ~np.isnan(t[:, i])
        counts, edges, _ = np.histogram2d(t[valid, i], p[valid, i].clip(-1, 1), 50, [[-1, 1], [-1, 1]])
        tidy(axes, f"{name}, label", f"{name}, prediction", f"{name}: CCC {ccc(p[:, i], t[:, i]):.3f}", "both")
        axes.plot([-1, 1], [-1, 1], color=SERIES[1], linewidth=1.2, zorder=3)
        axes.pcolormesh(
            edges, edges, np.ma.masked_less(counts.T, 0.5), cmap=SEQUENTIAL, norm=LogNorm(1, max(10, counts.max()))
        )
        axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1], yticks=[-1, -0.5, 0, 0.5, 1])
        axes.set_aspect("equal")
    return figure


def confusion_matrix(counts: ArrayLike) -> Figure:
    """Which classes are taken for which.

    Args:
        counts: (8, 8) frames, label in rows, prediction in columns (`Scores.confusion`).
    """
    frames = np.asarray(counts)
    rows = frames.sum(1, keepdims=True)
    share = frames / np.maximum(rows, 1)
    figure = page(
        6.8, 5.8, "Expressions, label against prediction", "share of the label's frames (colour, %), frames below"
    )
    axes = tidy(figure.subplots(), "prediction", "label")
    axes.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
    for i, j in np.ndindex(8, 8):
        colour = PAPER if share[i, j] > 0.45 else INK
        if frames[i, j]:
            axes.text(j, i - 0.1, f"{share[i, j]:.0%}"[:-1], ha="center", va="center", fontsize=10, color=colour)
            axes.text(j, i + 0.26, f"{frames[i, j]:,}", ha="center", va="center", fontsize=6.5, color=colour, alpha=0.8)
    axes.set_xticks(range(8), EXPRESSIONS, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(8), [f"{name}  ({n:,})" for name, n in zip(EXPRESSIONS, rows[:, 0], strict=True)])
    axes.set_xticks(np.arange(7) + 0.5, minor=True)
    axes.set_yticks(np.arange(7) + 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=2)
    axes.tick_params(which="minor", length=0)
    return figure


def f1_bars(scores: Scores, task: str) -> Figure:
    """F1 of each class or AU with its interval, beside what a trivial predictor of that one gets.

    Args:
        scores: From `score`.
        task: `expr` or `au`.
    """
    values = {"expr": scores.expr, "au": scores.au}[task]
    names = [name for name, value in values.items() if value is not None]
    f1 = np.array([values[name] for name in names])
    n, shown = (np.array([table[name] for name in names]) for table in (scores.labelled, scores.positives))
    trivial = 2 * shown / np.maximum(1, n + shown)
    what = "is always predicted" if task == "expr" else "is always called present"
    spread = f"black: 95 % interval over {scores.videos} videos      " if scores.intervals else ""
    note = f"{spread}orange: F1 where it {what}      in brackets: how often it is labelled"
    figure = page(7.2, 1.3 + 0.32 * len(names), f"{TASK_NAMES[task].capitalize()}: F1 {scores.tasks[task]:.3f}", note)
    axes = tidy(figure.subplots(), "F1", grid="x")
    place = np.arange(len(names))
    axes.barh(place, f1, 0.62, color=SERIES[0], alpha=0.85)
    if scores.intervals:
        low, high = np.array([scores.intervals[name] for name in names]).T
        axes.hlines(place, low, high, color=INK, linewidth=1.4)
    axes.vlines(trivial, place - 0.38, place + 0.38, color=SERIES[1], linewidth=2.4)
    words = names if task == "expr" else [f"{AU_NAMES[name]}  {name}" for name in names]
    axes.set_yticks(
        place, [f"{word}  ({rate:.1%})" for word, rate in zip(words, shown / np.maximum(1, n), strict=True)]
    )
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    return figure


def lambda_curves(curves: pl.DataFrame, lambdas: Mapping[str, float] | None = None) -> Figure:
    """The score at every λ, from the multi-task model alone (0) to the single-task model alone (1).

    Args:
        curves: Columns task, lambda, score (`Tuning.curves`).
        lambdas: Task -> tuned λ, marked with a dot.
    """
    tasks = [task for task in TASKS if task in curves["task"]]
    figure = page(0.8 + 2.9 * len(tasks), 3.4, "Fusion: λ·single + (1-λ)·multi", "dashed: the paper's λ")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        rows = curves.filter(pl.col("task") == task).sort("lambda")
        share, score = rows["lambda"].to_numpy(), rows["score"].to_numpy()
        tidy(axes, "λ  (multi to single)", "score", TASK_NAMES[task], "y")
        axes.axvline(DEFAULT_LAMBDAS[task], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(share, score, color=SERIES[0], linewidth=2)
        if lambdas and task in lambdas:
            best = lambdas[task]
            at = float(np.interp(best, share, score))
            axes.plot([best], [at], "o", color=SERIES[1], markersize=7)
            _note(axes, f"{at:.3f} at {best:.2f}", best, at)
        axes.margins(y=0.2)
        axes.set(xlim=(-0.03, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1])
    return figure


def training_curves(metrics: pl.DataFrame | str | os.PathLike[str]) -> Figure:
    """Losses and official scores of a run by epoch, the best epoch marked.

    Args:
        metrics: `metrics.csv` or its table: `epoch`, `train/loss`, `val/loss`, both also by task (`train/loss_va`),
            `val/total`, `val/va` ..., `lr`; what is absent is left out.
    """
    table = metrics if isinstance(metrics, pl.DataFrame) else pl.read_csv(Path(metrics), infer_schema_length=None)
    tasks = [task for task in TASKS if f"val/{task}" in table.columns or f"train/loss_{task}" in table.columns]
    panels = {"total": ("loss", "total"), **{task: (f"loss_{task}", task) for task in tasks}}
    if len(tasks) == 1:
        del panels["total"]
    note = f"learning rate {table['lr'][0]:.3g} to {table['lr'][-1]:.3g}" if "lr" in table.columns else ""
    figure = page(max(4.6, 0.8 + 2.9 * len(panels)), 5.6, "Training", note)
    epoch = table["epoch"].to_numpy()
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True)
    for (upper, lower), (name, columns) in zip(grid.T, panels.items(), strict=True):
        tidy(upper, "", "loss", TASK_NAMES.get(name, "all tasks"), "y")
        tidy(lower, "epoch", "validation score", "", "y")
        for colour, split in zip(SERIES[1::-1], ("train", "val"), strict=True):
            if f"{split}/{columns[0]}" in table.columns:
                word = {"train": "training", "val": "validation"}[split]
                _line(upper, epoch, table[f"{split}/{columns[0]}"], colour, word)
        if f"val/{columns[1]}" in table.columns:
            score = table[f"val/{columns[1]}"]
            _line(lower, epoch, score, SERIES[0])
            if (best := score.fill_nan(None).arg_max()) is not None:
                lower.plot(epoch[best], score[best], "o", color=SERIES[1], markersize=7)
                _note(lower, f"{score[best]:.3f}", epoch[best], score[best])
        lower.margins(y=0.2)
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if grid[0, 0].lines:
        legend(grid[0, 0])
    return figure


def _note(axes: Axes, words: str, x: float, y: float) -> None:
    """A value above its dot, readable on whatever runs behind it."""
    back = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    axes.annotate(words, (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=9, color=INK, bbox=back)


def _line(axes: Axes, x: NDArray, values: pl.Series, colour: str, label: str = "") -> None:
    marker = "o" if len(values) < 3 else ""
    y = values.cast(pl.Float64).to_numpy()
    axes.plot(x, y, color=colour, linewidth=1.8, label=label or None, marker=marker, markersize=4)
